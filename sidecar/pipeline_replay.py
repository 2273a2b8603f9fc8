"""The rooms that a replay needs, joined: journals → derived state → `state.db`. Part of the pipeline.

No model, no gateway, no span: what was decided is in `decisions.jsonl`, and what was to be told is in the outbox.
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
from sidecar.pipeline_books import Books
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
    """Everything derived in *data_dir*, from the copy and the journals behind it, or from the journals alone.

    The caller holds the folder's lock. `begin`, all of `steps`, then `finish`, which writes it in one transaction;
    the outbox stays as it is. *total* is the bytes of operations to be read, `done` those that were.
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
        """Bytes of operations that were read."""
        return max(0, self.replay.offset - self._since)

    @property
    def from_checkpoint(self) -> bool:
        """Whether segments were dropped, and what they held came from the copy."""
        return self._copy is not _NOTHING

    def begin(self) -> None:
        """Mend the journals' ends and find where to begin. Raises StartError, OSError."""
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
        """Read on, a few hundred records a step."""
        saved = self._saved if "corrections" in self._saved else self._copy.cursors
        if "corrections" in saved:
            self._corrections.load(msgspec.json.decode(saved["corrections"]))
        yield from self.replay.steps(self._copy.covered, corrections_since=covered(saved).ops)

    def finish(self) -> None:
        """Write it all. Raises RetryableError."""
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
        """Give the state back."""
        self._state.close()


class _NoRecorder:
    """Nothing is recorded in a replay."""

    def record(self, *_: Any, **__: Any) -> Receipt | None:
        """Never called: the tailer is not asked to read."""
        raise ObserverError("a replay recorded something", "this is a fault of ours", "Tell its authors")


def _corrections() -> CorrectionsTailer:
    """Only its cursor is used: which rows of the corrections file are in the journal."""
    normalizer = Normalizer(Redactor(()))
    return CorrectionsTailer(Path(), _NoRecorder(), normalizer, SystemClock(), lambda *_: [])
