"""A corrections file, a stand-in journal and the tailer between them, for the tests of the tailer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sidecar.errors import JournalError
from sidecar.model import ObservedOp, SpanRef
from sidecar.normalize import Normalizer
from sidecar.receivers.corrections_tailer import CorrectionsTailer
from sidecar.redaction import Redactor
from tests.fakes import ManualClock


class KeptReceipt:
    """A receipt that is settled, refused, or unsettled until `settled` is set."""

    def __init__(self, op: ObservedOp, journal: list[ObservedOp], fails: bool) -> None:
        self.op = op
        self._fails = fails
        if not fails:
            journal.append(op)

    @property
    def taken(self) -> bool:
        return not self._fails

    async def wait(self) -> None:
        if self._fails:
            raise JournalError("not written", "as the test wants it", "none")


class StalledReceipt:
    """A receipt whose waiters fail while `outcome` is None, as with a stalled journal; later it gives the outcome."""

    def __init__(self, op: ObservedOp) -> None:
        self.op = op
        self.outcome: bool | None = None

    @property
    def taken(self) -> bool | None:
        return self.outcome

    async def wait(self) -> None:
        if self.outcome is None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if not self.outcome:
            raise JournalError("stalled", "as the test wants it", "none")


class ListRecorder:
    """Keeps what is recorded; `room` and `failing` (corrections) say what the journal does."""

    def __init__(self) -> None:
        self.journal: list[ObservedOp] = []
        self.links: list[Sequence[SpanRef]] = []
        self.room = 1_000_000
        self.failing: set[str] = set()
        self.poison: set[str] = set()
        self.stalled: list[StalledReceipt] | None = None

    def record(
        self, op: ObservedOp, *, traceparent: str = "", tracestate: str = "", linked: Sequence[SpanRef] = ()
    ) -> KeptReceipt | StalledReceipt | None:
        if op.correction in self.poison:
            raise OverflowError(op.correction)
        if not self.room:
            return None
        self.room -= 1
        self.links.append(linked)
        if self.stalled is not None:
            self.stalled.append(StalledReceipt(op))
            return self.stalled[-1]
        return KeptReceipt(op, self.journal, op.correction in self.failing)

    @property
    def corrections(self) -> list[str | None]:
        return [op.correction for op in self.journal]


def failures(sig_hash: str | None, task_class: str | None) -> list[SpanRef]:
    if sig_hash == "broken":
        raise RuntimeError(sig_hash)
    return [("0" * 31 + "1", "0" * 15 + "2")] if sig_hash else []


class Bench:
    """A corrections file, a journal, and the tailer between them; `restart` is a new process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "corrections.jsonl"
        self.recorder = ListRecorder()
        self.tailer = self._new()

    def _new(self) -> CorrectionsTailer:
        return CorrectionsTailer(self.path, self.recorder, Normalizer(Redactor()), ManualClock(), failures)

    def restart(self, cursor: dict[str, Any] | None = None, journal_at: int | None = None) -> None:
        """From *cursor* (the current one if None), with the journal behind *journal_at* restored."""
        saved = json.loads(json.dumps(self.tailer.cursor() if cursor is None else cursor))
        self.tailer.close()
        self.tailer = self._new()
        if saved:
            self.tailer.load(saved)
        for op in self.recorder.journal[len(self.recorder.journal) if journal_at is None else journal_at :]:
            self.tailer.restore(op)

    def append(self, *corrections: str) -> None:
        with self.path.open("ab") as file:
            file.write(rows(*corrections))

    @property
    def got(self) -> list[str | None]:
        return self.recorder.corrections


def rows(*corrections: str) -> bytes:
    return b"".join(json.dumps({"correction": text}, ensure_ascii=False).encode() + b"\n" for text in corrections)
