"""The commit log and `OBSERVER_FSYNC`: when it syncs, and who is told of a failure."""

from __future__ import annotations

import asyncio
import errno

from sidecar.errors import JournalError
from tests.fakes import ManualClock
from tests.gated_journal import Journal, settled


async def test_fsync_always_comes_before_the_receipt() -> None:
    """With 0 seconds between, each commit is forced to disk before anyone is told."""
    journal = Journal(sync_every_s=0.0)
    async with journal.running():
        for count, text in enumerate("abc", start=1):
            await journal.append(text).wait()
            assert journal.file.syncs == count


async def test_fsync_by_interval() -> None:
    """Within the interval commits are not forced; the first one after it is."""
    clock = ManualClock()
    journal = Journal(clock=clock, sync_every_s=60.0)
    async with journal.running():
        await journal.append("a").wait()
        await journal.append("b").wait()
        assert journal.file.syncs == 0
        await clock.advance(61)
        await journal.append("c").wait()
        assert journal.file.syncs == 1
        await journal.append("d").wait()
        assert journal.file.syncs == 1
    assert journal.file.syncs == 2  # at stop, for what came since


async def test_fsync_comes_without_further_records() -> None:
    """What was written last is forced to disk when its time has come, though nothing follows."""
    journal = Journal(sync_every_s=0.01)
    async with journal.running():
        await journal.append("a").wait()
        await asyncio.to_thread(journal.file.synced.wait)
    assert journal.file.syncs == 1


async def test_fsync_never_leaves_it_to_the_system() -> None:
    """Without an interval nothing is forced while running."""
    journal = Journal(sync_every_s=None)
    async with journal.running():
        await journal.append("a").wait()
        await journal.append("b").wait()
        assert journal.file.syncs == 0


async def test_with_always_a_failed_fsync_is_told() -> None:
    """Who asked for fsync at every commit gets JournalError without it; the record, in the file, goes downstream."""
    journal = Journal(sync_every_s=0.0)
    journal.file.sync_failure = OSError(errno.EIO, "Input/output error")
    async with journal.running():
        assert [type(each) for each in await settled(journal.append("a"))] == [JournalError]
        assert journal.log.sync_errors == 1
        assert journal.log.settled_offset == journal.file.size
        assert journal.downstream.words == ["a"]
        journal.file.sync_failure = None
        assert await settled(journal.append("b")) == [None]


async def test_between_intervals_a_failed_fsync_is_counted() -> None:
    """The record is in the file all the same: its sender is not troubled, and the journal goes on."""
    journal = Journal(sync_every_s=0.01)
    journal.file.sync_failure = OSError(errno.EIO, "Input/output error")
    async with journal.running():
        assert await settled(journal.append("a")) == [None]
        await asyncio.to_thread(journal.file.synced.wait)
        assert await settled(journal.append("b")) == [None]
    assert journal.log.sync_errors > 0
