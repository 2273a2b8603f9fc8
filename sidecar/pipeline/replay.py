"""Builds the parts that a replay needs: journals → derived state → `state.db`.

No model, gateway or spans: decisions are read from `decisions.jsonl`, and posts are in the outbox already.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from sidecar.analysis.incidents import CORRECTION
from sidecar.clock import SystemClock
from sidecar.errors import ObserverError
from sidecar.normalize import Normalizer
from sidecar.pipeline.books import Books
from sidecar.protocols import Receipt
from sidecar.receivers.corrections_tailer import CorrectionsTailer
from sidecar.redaction import Redactor
from sidecar.store.checkpoint_copy import NAME, Copy, covered, load_copy
from sidecar.store.journal_file import AppendFile
from sidecar.store.replay import Replay
from sidecar.store.segments import journal_span
from sidecar.store.state import StateStore

log = structlog.get_logger(__name__)

_NOTHING = Copy({}, {})


class WholeReplay:
    """Rebuilds all derived state in *data_dir*: from the checkpoint copy and the journals after it, or all journals.

    The caller holds the folder's lock. Call `begin`, exhaust `steps`, then `finish`, which writes all in one
    transaction; the outbox is left alone. `total` is the number of bytes of ops to read, `done` those read.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._paths = (data_dir / "ops.jsonl", data_dir / "decisions.jsonl")
        self._state = StateStore(data_dir, SystemClock())
        self._copy = _NOTHING
        self._saved: dict[str, bytes] = {}
        books = Books(SystemClock())
        self._rows = books.saved
        self._corrections = _corrections()
        corrections = (CORRECTION, self._corrections)
        self.replay = Replay(
            *self._paths, books.latest, books.derived.values(), decided=books.decided, corrections=corrections
        )
        self.total = 0

    @property
    def done(self) -> int:
        """Bytes of ops read so far."""
        return max(0, self.replay.offset - self._since)

    @property
    def from_checkpoint(self) -> bool:
        """Whether segments were dropped and their effects were taken from the checkpoint copy."""
        return self._copy is not _NOTHING

    def begin(self) -> None:
        """Repair the journals' ends and find where to begin. Raises StartError, OSError."""
        for path in self._paths:
            AppendFile(path).close()
        (first, end), (first_decision, _) = map(journal_span, self._paths)
        if first or first_decision:
            self._copy = load_copy(self._data_dir / NAME) or _NOTHING
            if not self.from_checkpoint:
                log.warning("replay.without_checkpoint", uncounted_bytes=first)
        self._state.open()
        self._saved = self._state.load("cursors")
        for table, rows in self._rows.items():
            rows.load(self._copy.rows.get(table, {}))
        self._since = max(self._copy.covered.ops, first)
        self.total = max(0, end - self._since)

    def steps(self) -> Iterator[None]:
        """Replay, a few hundred records per step."""
        saved = self._saved if "corrections" in self._saved else self._copy.cursors
        if "corrections" in saved:
            self._corrections.load(msgspec.json.decode(saved["corrections"]))
        yield from self.replay.steps(self._copy.covered, corrections_since=covered(saved).ops)

    def finish(self) -> None:
        """Write the new state. Raises RetryableError."""
        cursors = {
            "ops": msgspec.json.encode(journal_span(self._paths[0])[1]),
            "decisions": msgspec.json.encode(journal_span(self._paths[1])[1]),
            "corrections": msgspec.json.encode(self._corrections.cursor()),
        }
        changes: dict[str, dict[str, bytes]] = {"cursors": cursors}
        for table, rows in self._rows.items():
            before = dict.fromkeys(self._state.load(table), b"")
            changes[table] = {**before, **self._copy.rows.get(table, {}), **rows.take_dirty()}
        self._state.save(changes)

    def close(self) -> None:
        """Close the state file."""
        self._state.close()


class _NoRecorder:
    """A recorder that must not be used: a replay records nothing."""

    def record(self, *_: Any, **__: Any) -> Receipt | None:
        """Raise: the tailer is never asked to read in a replay."""
        raise ObserverError("a replay recorded something", "this is a bug in the observer", "Report it to its authors")


def _corrections() -> CorrectionsTailer:
    """A tailer of which only the cursor is used: which rows of the corrections file are in the journal."""
    normalizer = Normalizer(Redactor(()))
    return CorrectionsTailer(Path(), _NoRecorder(), normalizer, SystemClock(), lambda *_: [])
