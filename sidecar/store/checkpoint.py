"""Derived state across restarts: a checkpoint in SQLite, and the journals behind it read again at start.

Saved together in one transaction: the rows that changed, and how far into each journal they go. Whatever was settled
after the last save is read from the journals, so a crash at any moment loses nothing and repeats nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from sidecar.model import Decision, ObservedOp
from sidecar.protocols import OpConsumer
from sidecar.store.journal_reader import JournalReader
from sidecar.store.ring import OpRing
from sidecar.store.state import StateStore

log = structlog.get_logger(__name__)

_TURN = 500  # records restored before other tasks (health) get a turn


class Derived(Protocol):
    """State that follows from ops: fed live and at start, kept as rows."""

    def consume(self, op: ObservedOp) -> None:
        """Take one op in."""
        ...

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore rows of a checkpoint."""
        ...

    def take_dirty(self) -> dict[str, bytes]:
        """Rows that changed since the last call; removed ones as b""."""
        ...

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving them failed: give them again next time."""
        ...


class SourceCursor(Protocol):
    """A source that knows how far it has read (the corrections tailer)."""

    def cursor(self) -> dict[str, Any]:
        """Its position, JSON-able."""
        ...

    def load(self, cursor: dict[str, Any]) -> None:
        """Go on from there."""
        ...

    def restore(self, op: ObservedOp) -> None:
        """*op* came from this source and is in the journal: never read it again."""
        ...


class JournalPosition(Protocol):
    """How far a journal's records have gone downstream; see `CommitLog`."""

    settled_offset: int


class Checkpoint:
    """A stage: restores at start, saves when told and at stop."""

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
        derived: Mapping[str, Derived],
        on_decision: Mapping[str, Callable[[bytes], None]],
        corrections: SourceCursor,
        correction_source: str,
    ) -> None:
        self._state = state
        self._ring = ring
        self._ops_path = ops_path
        self._ops_position = ops_position
        self._decisions_path = decisions_path
        self._decisions_position = decisions_position
        self._derived = dict(derived)
        self._on_decision = dict(on_decision)
        self._corrections = corrections
        self._correction_source = correction_source
        self._started = False
        self.damaged = 0  # journal lines that could not be read back
        self.failed_saves = 0

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Load the last checkpoint, then what the journals hold behind it; refill the ring."""
        self._state.open()
        if self._is_ahead():
            self._forget()
        cursors = self._state.load("cursors")
        for table, derived in self._derived.items():
            derived.load(self._state.load(table))
        if "corrections" in cursors:
            self._corrections.load(msgspec.json.decode(cursors["corrections"]))
        replayed = await self._replay_ops(_offset(cursors, "ops"))
        decided = await self._replay_decisions(_offset(cursors, "decisions"))
        reader = JournalReader(self._ops_path)
        for op in reader.tail(ObservedOp, self._ring.capacity, self._ring.max_bytes):
            self._ring.consume(op)
        self._started = True
        log.info("state.restored", ring=len(self._ring), replayed_ops=replayed, replayed_decisions=decided)

    async def stop(self) -> None:
        """Save once more, and close the state."""
        if self._started:
            self._started = False
            await self._state.idle()  # the last cycle may have been cut off while it saved
            await self.save()
            self._state.close()

    async def save(self) -> None:
        """Save what changed. Raises RetryableError if the disk does not keep up; nothing is forgotten then."""
        rows = {table: derived.take_dirty() for table, derived in self._derived.items()}
        cursors = {
            "ops": msgspec.json.encode(self._ops_position.settled_offset),
            "decisions": msgspec.json.encode(self._decisions_position.settled_offset),
            "corrections": msgspec.json.encode(self._corrections.cursor()),
        }
        try:
            await self._state.save_soon({**rows, "cursors": cursors})
        except BaseException:  # a time-out's cancellation too: the rows must not be lost
            self.failed_saves += 1
            for table, derived in self._derived.items():
                derived.put_back(rows[table])
            raise

    def _is_ahead(self) -> bool:
        """Whether a journal is shorter than what was saved of it: it lost its end (power), or is another file."""
        cursors = self._state.load("cursors")
        return (
            _offset(cursors, "ops") > self._ops_position.settled_offset
            or _offset(cursors, "decisions") > self._decisions_position.settled_offset
        )

    def _forget(self) -> None:
        """Drop what was derived: it counts lines that are gone, and those that are left would be counted twice."""
        rows = {table: dict.fromkeys(self._state.load(table), b"") for table in self._derived}
        self._state.save({**rows, "cursors": {"ops": b"0", "decisions": b"0"}})
        log.warning("state.ahead_of_journal", rows_dropped=sum(map(len, rows.values())))

    async def _replay_ops(self, offset: int) -> int:
        reader, count = JournalReader(self._ops_path), 0
        consumers: list[OpConsumer] = list(self._derived.values())
        for op, _ in reader.scan(ObservedOp, offset):
            count += 1
            for consumer in consumers:
                consumer.consume(op)
            if op.source == self._correction_source:
                self._corrections.restore(op)
            if count % _TURN == 0:
                await asyncio.sleep(0)
        self.damaged += reader.damaged
        return count

    async def _replay_decisions(self, offset: int) -> int:
        reader, count = JournalReader(self._decisions_path), 0
        for decision, _ in reader.scan(Decision, offset):
            apply = self._on_decision.get(decision.kind)
            if apply is not None:
                try:
                    apply(bytes(decision.body))
                except Exception:
                    log.exception("decision.not_restored", decision_id=decision.decision_id)
            count += 1
            if count % _TURN == 0:
                await asyncio.sleep(0)
        self.damaged += reader.damaged
        return count


def _offset(cursors: Mapping[str, bytes], name: str) -> int:
    """How far into the journal called *name* the saved rows go."""
    return msgspec.json.decode(cursors[name], type=int) if name in cursors else 0
