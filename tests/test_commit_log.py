"""Group commit: records gather while a write is under way, and a receipt is settled only by the write itself."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import defaultdict
from pathlib import Path

import pytest

from sidecar.clock import SystemClock
from sidecar.errors import JournalError
from sidecar.store.commit_log import CommitLog
from sidecar.store.journal_file import AppendFile, sealed
from sidecar.store.segments import closed_segments
from tests.fakes import ManualClock
from tests.gated_journal import Journal, KeptWords, encoded, settled, turns, word

FULL = OSError(errno.ENOSPC, "No space left on device")


async def test_what_gathers_during_a_write_goes_in_one() -> None:
    """Records that come while the file is busy are written together, in order, and go downstream in that order."""
    journal = Journal()
    async with journal.running():
        receipts = [await journal.writing("a"), *(journal.append(text) for text in "bcd")]
        journal.file.gate.set()
        assert await settled(*receipts) == [None] * 4
    assert journal.file.words == [["a"], ["b", "c", "d"]]
    assert journal.downstream.words == ["a", "b", "c", "d"]
    assert (journal.log.committed, journal.log.commits, journal.log.pending_bytes) == (4, 2, 0)
    assert journal.log.committed_bytes == journal.file.size == journal.log.settled_offset


async def test_a_receipt_is_settled_only_after_the_write() -> None:
    """While the disk works, the sender waits, and nothing has gone downstream; waiting again later returns at once."""
    journal = Journal()
    async with journal.running():
        receipt = await journal.writing("a")
        waiting = asyncio.ensure_future(receipt.wait())
        await turns()
        assert not waiting.done()
        assert journal.downstream.words == []
        assert journal.log.pending_bytes == len(sealed(encoded("a")))
        journal.file.gate.set()
        await waiting
        await receipt.wait()
        assert journal.downstream.words == ["a"]


async def test_a_failed_write_refuses_those_who_wait() -> None:
    """Awaited records never happened; the others happened without being in the file, and are counted."""
    journal = Journal()
    async with journal.running():
        first = await journal.writing("a")
        second, third = journal.append("b"), journal.append("c", awaited=False)
        journal.file.failure = FULL
        journal.file.gate.set()
        errors = await settled(first, second, third)
        assert [type(error) for error in errors] == [JournalError] * 3
        assert "No space left" in str(errors[0])
        assert journal.downstream.words == ["c"]
        assert (journal.log.unwritten, journal.log.write_errors, journal.log.committed) == (1, 2, 0)
        assert journal.log.settled_offset == 0
        journal.file.failure = None
        assert await settled(journal.append("d")) == [None]
    assert journal.file.words == [["d"]]
    assert journal.downstream.words == ["c", "d"]


async def test_a_stalled_write_refuses_in_time() -> None:
    """A disk that does not answer costs its senders the commit timeout, not for ever, and the loop is free."""
    clock = ManualClock()
    journal = Journal(clock=clock)
    async with journal.running():
        waiting = [asyncio.ensure_future((await journal.writing("a")).wait())]
        waiting.append(asyncio.ensure_future(journal.append("b").wait()))
        await clock.advance(9)
        assert not any(task.done() for task in waiting)
        await clock.advance(2)
        for task in waiting:
            with pytest.raises(JournalError, match="stalled"):
                await task
        journal.file.gate.set()
        assert await settled(journal.append("c")) == [None]
    assert journal.downstream.words == ["a", "b", "c"]  # in the file after all: at least once


async def test_what_waits_is_bounded() -> None:
    """Beyond *max_bytes* nothing is taken; there is room again once the disk has caught up."""
    size = len(sealed(encoded("a")))
    journal = Journal(max_bytes=3 * size)
    async with journal.running():
        receipts = [await journal.writing("a"), journal.append("b"), journal.append("c")]
        assert journal.log.append("d", awaited=True) is None
        assert journal.log.refused == 1
        journal.file.gate.set()
        await settled(*receipts)
        assert await settled(journal.append("e")) == [None]
    assert journal.downstream.words == ["a", "b", "c", "e"]


async def test_order_is_kept_per_thread() -> None:
    """Many threads at once: each one's records are in the file and downstream in the order it gave them."""
    journal = Journal()

    def speak(name: int) -> None:
        for number in range(200):
            journal.append(f"{name}.{number}", awaited=False)

    async with journal.running():
        await asyncio.gather(*(asyncio.to_thread(speak, name) for name in range(8)))
    written = [text for batch in journal.file.words for text in batch]
    assert written == journal.downstream.words
    by_thread: dict[str, list[int]] = defaultdict(list)
    for text in written:
        name, number = text.split(".")
        by_thread[name].append(int(number))
    assert list(by_thread.values()) == [list(range(200))] * 8


async def test_stop_writes_everything() -> None:
    """What had been taken is in the file, forced to disk and settled when stop returns; nothing is taken after it."""
    journal = Journal(sync_every_s=3600.0)
    async with asyncio.TaskGroup() as tasks:
        await journal.log.start(tasks)
        await journal.writing("a")
        for text in "bcd":
            journal.append(text, awaited=False)
        stopping = asyncio.ensure_future(journal.log.stop())
        await turns()
        assert journal.log.append("e", awaited=True) is None
        journal.file.gate.set()
        await stopping
        assert journal.downstream.words == ["a", "b", "c", "d"]
    assert journal.file.words == [["a"], ["b", "c", "d"]]
    assert (journal.file.syncs, journal.file.closed, journal.log.refused) == (1, 1, 1)
    await journal.log.stop()
    assert journal.log.append("f", awaited=True) is None


async def test_nothing_is_taken_before_start() -> None:
    """A log that is not running refuses, and stopping it is nothing."""
    journal = Journal()
    assert journal.log.append("a", awaited=True) is None
    await journal.log.stop()
    assert (journal.log.refused, journal.file.closed) == (1, 0)


async def test_it_can_start_again() -> None:
    """A stopped log takes records again once it is started again, behind what the file holds."""
    journal = Journal()
    async with journal.running():
        await journal.append("a").wait()
    async with journal.running():
        await journal.append("b").wait()
        assert journal.log.settled_offset == journal.file.size
    assert journal.downstream.words == ["a", "b"]


async def test_one_sender_that_leaves_does_not_take_others_along() -> None:
    """A cancelled waiter changes nothing for the others of its batch, nor for its record."""
    journal = Journal()
    async with journal.running():
        first, second = await journal.writing("a"), journal.append("b")
        leaving, same, other = (asyncio.ensure_future(r.wait()) for r in (first, first, second))
        await turns()
        leaving.cancel()
        await turns()
        assert leaving.cancelled()
        journal.file.gate.set()
        await asyncio.gather(same, other)
    assert journal.downstream.words == ["a", "b"]


async def test_what_downstream_fails_on_costs_no_sender_its_answer() -> None:
    """The records are in the file: all of the batch are acknowledged, and the next batch goes downstream."""
    journal = Journal(poison="b")
    async with journal.running():
        receipts = [await journal.writing("a"), journal.append("b")]
        journal.file.gate.set()
        assert await settled(*receipts) == [None] * 2
        assert await settled(journal.append("c")) == [None]
    assert journal.downstream.words == ["a", "c"]
    assert journal.log.downstream_errors == 1


async def test_a_stop_that_runs_out_of_time_leaves_nobody_waiting() -> None:
    """With the disk stalled, stop can be given up: its tasks end, and who still waits is refused."""
    journal = Journal()
    async with asyncio.TaskGroup() as tasks:
        await journal.log.start(tasks)
        waiting = asyncio.ensure_future((await journal.writing("a")).wait())
        later = asyncio.ensure_future(journal.append("b").wait())
        await turns()
        stopping = asyncio.ensure_future(journal.log.stop())
        await turns()
        stopping.cancel()
        for task in (waiting, later):
            with pytest.raises(JournalError):
                await task
    journal.file.gate.set()


def test_a_write_that_ends_after_the_loop_is_harmless() -> None:
    """The writer thread ends by itself when the disk answers long after everyone has gone."""
    journal = Journal()

    async def leave() -> None:
        async with asyncio.TaskGroup() as tasks:
            await journal.log.start(tasks)
            await journal.writing("a", awaited=False)
            stopping = asyncio.ensure_future(journal.log.stop())
            await turns()
            stopping.cancel()

    asyncio.run(leave())
    (writer,) = (thread for thread in threading.enumerate() if thread.name == "words-writer")
    journal.file.gate.set()
    writer.join()
    assert journal.file.words == [["a"]]
    assert journal.file.closed == 1


async def test_over_a_real_file(tmp_path: Path) -> None:
    """What was acknowledged can be read back from the file, checksums and all."""
    path = tmp_path / "words.jsonl"
    downstream = KeptWords()
    log: CommitLog[str] = CommitLog(
        "words",
        lambda: AppendFile(path),
        encoded,
        downstream,
        SystemClock(),
        max_bytes=10**6,
        sync_every_s=0.0,
        commit_timeout_s=10.0,
    )
    async with asyncio.TaskGroup() as tasks:
        await log.start(tasks)
        receipts = [log.append(str(number), awaited=True) for number in range(100)]
        assert await settled(*(receipt for receipt in receipts if receipt is not None)) == [None] * 100
        assert [word(line) for line in path.read_bytes().splitlines()] == [str(number) for number in range(100)]
        await log.stop()


async def test_a_file_that_nobody_writes_to_is_closed_when_it_is_old(tmp_path: Path) -> None:
    """A look has the writer close it, so that retention by age finds it; nothing is written for that."""
    now_s = [1_000.0]
    path = tmp_path / "words.jsonl"
    downstream = KeptWords()

    def file() -> AppendFile:
        return AppendFile(path, segment_age_s=60.0, now_s=lambda: now_s[0])

    log: CommitLog[str] = CommitLog(
        "words",
        file,
        encoded,
        downstream,
        SystemClock(),
        max_bytes=10**6,
        sync_every_s=None,
        commit_timeout_s=10.0,
    )

    async def written(text: str) -> list[BaseException | None]:
        receipt = log.append(text, awaited=True)
        assert receipt is not None
        return await settled(receipt)

    async with asyncio.TaskGroup() as tasks:
        await log.start(tasks)
        assert await written("a") == [None]
        log.look()
        assert await written("b") == [None]  # behind the look: it was not old
        assert closed_segments(path) == []
        now_s[0] += 61.0
        log.look()
        while not closed_segments(path):  # noqa: ASYNC110 - a thread closes it
            await asyncio.sleep(0.001)
        assert path.stat().st_size == 0
        assert await written("c") == [None]
        await log.stop()
    (closed,) = closed_segments(path)
    assert (closed.size, downstream.words) == (closed.end, ["a", "b", "c"])
    assert path.stat().st_size == log.settled_offset - closed.end
