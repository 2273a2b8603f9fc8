"""Enforces the bounds of the journals: drops the oldest segments when there are too many bytes, or when they are old.

What is dropped stays counted: the state is saved first, copied to `checkpoint.db` and synced. Followers of a journal
are told before, so that they count unread records as lost; the bounds do not wait for followers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import structlog

from sidecar.errors import RetryableError
from sidecar.protocols import Clock, JournalFollower
from sidecar.store.checkpoint_copy import NAME, Covered
from sidecar.store.segments import Segment, closed_segments, drop_segment

log = structlog.get_logger(__name__)

LOOK_S: Final = 2.0
_HEADROOM: Final = 8  # an eighth of the share stays free for what arrives between two looks


class CopiedState(Protocol):
    """State that can be copied as a whole. Implementation: `StateStore`."""

    async def copy_to(self, path: Path) -> Covered:
        """Write a copy to *path*. Returns the journal offsets it covers. Raises RetryableError."""
        ...


class BoundedJournal:
    """One journal and its bounds. *active* is its active file; `bytes` and `segments` are as of the last look.

    *look* makes the journal's writer close an old active file, so that a journal without writes ages out too, and
    notice that its file was removed.
    """

    def __init__(self, name: str, active: Path, most_bytes: int, look: Callable[[], None]) -> None:
        self.name = name
        self.look = look
        self.active = active
        self.most_bytes = most_bytes
        self.followers: list[JournalFollower] = []
        self.bytes = 0
        self.segments = 0
        self.dropped = 0

    def due(self, oldest_s: float) -> list[Segment]:
        """The segments to drop, oldest first: closed before *oldest_s*, or over the byte bound. Raises OSError."""
        closed = [segment for segment in closed_segments(self.active) if segment.size]
        try:
            active_bytes = self.active.stat().st_size
        except FileNotFoundError:
            active_bytes = 0
        self.bytes = active_bytes + sum(segment.size for segment in closed)
        self.segments = len(closed) + 1
        due, excess = [], self.bytes - (self.most_bytes - self.most_bytes // _HEADROOM)
        for segment in closed:
            if excess <= 0 and segment.closed_at_s >= oldest_s:
                break
            excess -= segment.size
            due.append(segment)
        return due

    def drop(self, segments: Sequence[Segment]) -> None:
        """Remove *segments*, oldest first. Raises OSError; those before the failed one are gone then."""
        for segment in segments:
            drop_segment(self.active, segment)
            self.dropped += 1
            self.bytes -= segment.size
            self.segments -= 1


class Retention:
    """A stage: checks every two seconds. *save* saves the state; *max_age_s* None: no age bound."""

    name = "retention"

    def __init__(
        self,
        state: CopiedState,
        save: Callable[[], Awaitable[None]],
        clock: Clock,
        *,
        ops: BoundedJournal,
        decisions: BoundedJournal,
        max_age_s: float | None,
    ) -> None:
        self._state = state
        self._save = save
        self._clock = clock
        self._max_age_s = max_age_s
        self.journals = (ops, decisions)
        self._task: asyncio.Task[None] | None = None
        self.failures = 0  # checks that could not do what was due; the next one retries

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start checking; the state must be open."""
        self._task = tasks.create_task(self._loop(), name="retention")

    async def stop(self) -> None:
        """Stop checking. Segments being dropped are already covered by the copy."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def enforce(self) -> int:
        """Drop the segments over the bounds, once a copy of the state covers them. Returns their number.

        Raises RetryableError, OSError.
        """
        for journal in self.journals:
            journal.look()
        oldest_s = self._clock.time_ns() / 1e9 - self._max_age_s if self._max_age_s is not None else 0.0
        due = [await asyncio.to_thread(journal.due, oldest_s) for journal in self.journals]
        if not any(due):
            return 0
        await self._save()
        await asyncio.to_thread(self._sync)
        covered = await self._state.copy_to(self.journals[0].active.with_name(NAME))
        return sum(
            [
                await self._drop(journal, [segment for segment in segments if segment.end <= upto])
                for journal, segments, upto in zip(self.journals, due, covered, strict=True)
            ]
        )

    async def _drop(self, journal: BoundedJournal, segments: Sequence[Segment]) -> int:
        if not segments:
            return 0
        for follower in journal.followers:
            try:
                await follower.let_go(segments[-1].end)
            except Exception:  # a faulty follower must not void the bounds
                log.exception("journal.follower_failed", journal=journal.name)
        await asyncio.to_thread(journal.drop, segments)
        log.info(
            "journal.segments_dropped",
            journal=journal.name,
            segments=len(segments),
            bytes=sum(segment.size for segment in segments),
            upto_offset=segments[-1].end,
        )
        return len(segments)

    def _sync(self) -> None:
        """Sync the journals, so that the copy never covers more than what is on disk."""
        for journal in self.journals:
            try:
                fd = os.open(journal.active, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    async def _loop(self) -> None:
        failing = False
        while True:
            try:
                await self.enforce()
                failing = False
            except (RetryableError, OSError) as exc:
                self.failures += 1
                if not failing:
                    log.error("retention.failed", error=str(exc), failures=self.failures)
                failing = True
            except Exception:  # a fault costs only this check
                self.failures += 1
                log.exception("retention.look_failed", failures=self.failures)
            await self._clock.sleep(LOOK_S)
