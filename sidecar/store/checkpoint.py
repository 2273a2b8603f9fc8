"""Keeps derived state across restarts: a checkpoint in SQLite, plus the journals after it, replayed at start.

One transaction saves the changed rows and the journal offsets they cover. Whatever settled after the last save is read
from the journals again, so a crash at any moment loses nothing and counts nothing twice. If the state is missing or
does not match the journals, it is rebuilt from the copy made before segments were dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import structlog

from sidecar.kept_rows import Saved
from sidecar.model import ObservedOp
from sidecar.protocols import OpConsumer
from sidecar.store.checkpoint_copy import NAME, Copy, Covered, covered, load_copy
from sidecar.store.decisions import DecisionHandlers
from sidecar.store.journal_reader import JournalReader
from sidecar.store.latest_ops import LATEST, LatestOps
from sidecar.store.replay import Replay
from sidecar.store.ring import OpRing
from sidecar.store.segments import journal_span
from sidecar.store.state import StateStore

log = structlog.get_logger(__name__)

_MOST_ROUNDS: Final = 4


class Derived(Saved, OpConsumer, Protocol):
    """A book: saved state that consumes ops, live and at start."""


class SourceCursor(Protocol):
    """A source that keeps its own read position (the corrections tailer)."""

    def cursor(self) -> dict[str, Any]:
        """Its read position, JSON-able."""
        ...

    def load(self, cursor: dict[str, Any]) -> None:
        """Resume from *cursor*."""
        ...

    def consume(self, op: ObservedOp) -> None:
        """*op* is in the journal: if it came from this source, the source must not read it again."""
        ...


class JournalPosition(Protocol):
    """The journal offset up to which records have gone downstream; see `CommitLog`."""

    settled_offset: int


class Checkpoint:
    """A stage: restores the state at start, saves it on demand and at stop.

    *before_save* secures what a replay of the journals after the save would not bring back. Within *quiet* no settled
    record is still on its way into the derived state.
    """

    name = "checkpoint"

    def __init__(
        self,
        state: StateStore,
        ring: OpRing,
        *,
        ops_path: Path,
        ops_position: JournalPosition,
        decisions_path: Path,
        decisions_position: JournalPosition,
        latest: LatestOps,
        derived: Mapping[str, Derived],
        decided: DecisionHandlers,
        corrections: SourceCursor,
        correction_source: str,
        before_save: Callable[[], Awaitable[None]],
        quiet: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._state = state
        self._ring = ring
        self._copy_path = ops_path.with_name(NAME)
        self._ops_path = ops_path
        self._ops_position = ops_position
        self._decisions_path = decisions_path
        self._decisions_position = decisions_position
        self._latest = latest
        self._derived = dict(derived)
        self._rows: dict[str, Saved] = {LATEST: latest, **derived}
        self._decided = decided
        self._corrections = corrections
        self._correction_source = correction_source
        self._before_save = before_save
        self._quiet = quiet
        self._saving = asyncio.Lock()
        self._started = False
        self.damaged = 0  # journal lines that could not be read back
        self.failed_saves = 0

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Load the last checkpoint, replay the journals after it, refill the ring."""
        self._state.open()
        cursors = self._state.load("cursors")
        if not self._fits(cursors):
            cursors = self._begin_anew()
        for table, rows in self._rows.items():
            rows.load(self._state.load(table))
        if "corrections" in cursors:
            self._corrections.load(msgspec.json.decode(cursors["corrections"]))
        replay = Replay(
            self._ops_path,
            self._decisions_path,
            self._latest,
            self._derived.values(),
            decided=self._decided,
            corrections=(self._correction_source, self._corrections),
        )
        for _ in replay.steps(covered(cursors)):
            await asyncio.sleep(0)
        self.damaged += replay.damaged
        for op in JournalReader(self._ops_path).tail(ObservedOp, self._ring.capacity, self._ring.max_bytes):
            self._ring.refill(op, self._latest.later(op.op_id))
        self._started = True
        log.info("state.restored", ring=len(self._ring), replayed_ops=replay.ops, replayed_decisions=replay.decisions)

    async def stop(self) -> None:
        """Save a last time and close the state."""
        if self._started:
            self._started = False
            await self._state.idle()  # the last cycle may have been cancelled while it saved
            try:
                await self.save()
            finally:
                self._state.close()

    async def save(self) -> None:
        """Save the changed rows. Raises RetryableError if the disk does not keep up; the rows stay dirty then."""
        async with self._saving:
            await self._before_save()
            await self._prepare()
            async with self._quiet():
                rows = {table: each.take_dirty() for table, each in self._rows.items()}
                cursors = {
                    "ops": msgspec.json.encode(self._ops_position.settled_offset),
                    "decisions": msgspec.json.encode(self._decisions_position.settled_offset),
                    "corrections": msgspec.json.encode(self._corrections.cursor()),
                }
            try:
                await self._state.save_soon({**rows, "cursors": cursors})
            except BaseException:  # also cancellation by a time-out: the rows must stay dirty
                self.failed_saves += 1
                for table, each in self._rows.items():
                    each.put_back(rows[table])
                raise

    async def _prepare(self) -> None:
        """Encode rows ahead of the save, in rounds: a busy row changes again in each turn of the event loop.

        Each round is shorter than the one before, so that little is left to encode in the quiet moment.
        """
        for _ in range(_MOST_ROUNDS):
            steps = 0
            for each in self._rows.values():
                for _ in each.prepare():
                    steps += 1
                    await asyncio.sleep(0)
            if steps <= 1:
                return

    def _fits(self, cursors: Mapping[str, bytes]) -> bool:
        """Whether the saved state and the journals belong together.

        They do not if a journal is shorter than its saved offset (lost its end in a power cut, or is another file), or
        if its oldest segment begins after that offset (records are missing that the saved rows do not count).
        """
        if "ops" not in cursors and self._copy_path.exists():
            return False
        since, ends = covered(cursors), self._ends()
        is_ahead = since.ops > ends.ops or since.decisions > ends.decisions
        return not is_ahead and since.ops >= self._first.ops and since.decisions >= self._first.decisions

    @property
    def _first(self) -> Covered:
        return Covered(journal_span(self._ops_path)[0], journal_span(self._decisions_path)[0])

    def _ends(self) -> Covered:
        return Covered(self._ops_position.settled_offset, self._decisions_position.settled_offset)

    def _begin_anew(self) -> dict[str, bytes]:
        """Reset to the checkpoint copy, or without one to empty state at offset 0. Returns the cursors to resume from.

        The old rows must go: they count lines that are gone, and would count the remaining ones twice.
        """
        copy, ends = load_copy(self._copy_path), self._ends()
        if copy is not None and (copy.covered.ops > ends.ops or copy.covered.decisions > ends.decisions):
            log.warning("checkpoint.ahead_of_journal", covered_ops=copy.covered.ops, journal_end=ends.ops)
            copy = None
        if copy is None:
            copy = Copy({}, {"ops": b"0", "decisions": b"0"})
        gone = {table: dict.fromkeys(self._state.load(table), b"") for table in self._rows}
        kept = {table: {**gone[table], **copy.rows.get(table, {})} for table in gone}
        self._state.save({**kept, "cursors": copy.cursors})
        first = self._first
        log.warning(
            "state.derived_anew",
            rows_dropped=sum(map(len, gone.values())),
            from_checkpoint=bool(copy.rows),
            since_ops=max(copy.covered.ops, first.ops),
            uncounted_bytes=max(0, first.ops - copy.covered.ops),
        )
        return {**self._state.load("cursors"), **copy.cursors}
