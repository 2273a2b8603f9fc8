"""The spool: what it took comes out again, whatever was torn or damaged; its bounds hold, and count what they cost."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.clock import SystemClock
from sidecar.errors import StartError
from sidecar.export.frames import HEAD_BYTES, MAGIC, SpoolRecord, framed, frames, whole_until
from sidecar.export.spool import Spool
from sidecar.export.spool_door import SpoolDoor
from sidecar.store.commit_log import CommitLog
from tests.fakes import KeptOps, ManualClock

MIB = 2**20
records = st.lists(
    st.builds(SpoolRecord, st.one_of(st.binary(max_size=300), st.just(MAGIC * 3)), st.integers(0, 5)), max_size=12
)


def spool_in(folder: Path, clock: ManualClock | None = None, max_bytes: int = MIB, max_age_s: float = 1e6) -> Spool:
    """A spool of *folder*, open."""
    return Spool(folder, clock or ManualClock(), max_bytes=max_bytes, max_age_s=max_age_s).open()


def drained(spool: Spool) -> list[tuple[bytes, int]]:
    """All that waits, taken and settled."""
    found: list[tuple[bytes, int]] = []
    while (batch := spool.take()) is not None:
        found += zip(batch.items, batch.spans, strict=True)
        spool.settle(batch, len(batch.items))
    return found


@settings(max_examples=60, deadline=None)
@given(records, st.integers(0, 400))
def test_a_torn_tail_is_mended(kept: list[SpoolRecord], cut: int) -> None:
    """After a crash in mid-write the whole records are there, the torn one is not, and appending goes on."""
    with tempfile.TemporaryDirectory() as folder:
        spool = spool_in(Path(folder))
        for record in kept:
            spool.append(framed(record))
        spool.close()
        torn = framed(SpoolRecord(b"x" * 500, 1))[:cut]
        for path in Path(folder).glob("*.spool"):
            with path.open("ab") as file:
                file.write(torn)
        again = spool_in(Path(folder))
        again.append(framed(SpoolRecord(b"after", 1)))
        assert sorted(drained(again)) == sorted([*kept, (b"after", 1)])  # fresh ones take turns with the backlog
        assert again.damaged == 0
        again.close()


@settings(max_examples=100, deadline=None)
@given(records.filter(lambda kept: len(kept) > 1), st.data())
def test_a_damaged_byte_costs_the_record_it_is_in(kept: list[SpoolRecord], data: st.DataObject) -> None:
    """It is passed over and counted; those before and behind it are read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames"
        whole = b"".join(map(framed, kept))
        at = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
        hit, end = 0, 0
        while at >= end + len(framed(kept[hit])):
            end += len(framed(kept[hit]))
            hit += 1
        fd = os.open(path, os.O_RDONLY)
        read = [frame.request for frame in frames(fd, 0, len(whole)) if frame.request is not None]
        os.close(fd)
    assert read == [record.request for number, record in enumerate(kept) if number != hit]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["put", "take", "refuse", "restart"]), st.integers(1, 3000)), max_size=60),
)
def test_bounds_hold_and_the_count_is_exact(steps: list[tuple[str, int]]) -> None:
    """Bytes never pass the bound; each span is exported, evicted and counted, or there still."""
    with tempfile.TemporaryDirectory() as folder:
        spool = spool_in(Path(folder), max_bytes=16 * 1024)
        put = exported = evicted = 0
        for step, amount in steps:
            if step == "put":
                put += amount % 5
                spool.append(framed(SpoolRecord(b"r" * amount, amount % 5)))
            elif step == "restart":
                spool.close()
                evicted += spool.evicted
                spool = spool_in(Path(folder), max_bytes=16 * 1024)
            elif (batch := spool.take()) is not None:
                if step == "take":
                    spool.settle(batch, len(batch.items))
                    exported += sum(batch.spans)
                else:  # while it is on its way, its segment may have to go
                    spool.append(framed(SpoolRecord(b"x" * (amount * 4), 1)))
                    put += 1
                    spool.give_back(batch, 0)
            on_disk = sum(path.stat().st_size for path in Path(folder).glob("*.spool"))
            assert spool.held_bytes == on_disk <= 16 * 1024
        evicted += spool.evicted
        left = sum(spans for _, spans in drained(spool))
        assert exported + evicted + left == put
        spool.close()


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    """Counted in spans and bytes; what is younger stays."""
    clock = ManualClock()
    spool = spool_in(tmp_path, clock, max_age_s=1600)
    spool.append(framed(SpoolRecord(b"old", 3)))
    asyncio.run(clock.advance(1000))
    spool.append(framed(SpoolRecord(b"young", 1)))
    asyncio.run(clock.advance(1000))
    assert drained(spool) == [(b"young", 1)]
    assert (spool.evicted, spool.evicted_bytes) == (3, HEAD_BYTES + 3)
    spool.close()


def test_more_at_once_than_the_bound_is_refused(tmp_path: Path) -> None:
    """And what waits is not thrown out for it."""
    spool = spool_in(tmp_path, max_bytes=1000)
    spool.append(framed(SpoolRecord(b"kept", 1)))
    with pytest.raises(OSError, match="more at once"):
        spool.append(b"x" * 1001)
    assert drained(spool) == [(b"kept", 1)]
    spool.close()


def test_exported_segments_leave_the_disk(tmp_path: Path) -> None:
    """Also those of a former run, and offsets go on where they were."""
    spool = spool_in(tmp_path)
    for number in range(40):
        spool.append(framed(SpoolRecord(b"r" * 8000, number)))
    assert len(list(tmp_path.glob("*.spool"))) > 3
    assert len(drained(spool)) == 40
    assert len(list(tmp_path.glob("*.spool"))) == 1
    end = spool.size
    spool.close()
    again = spool_in(tmp_path)
    assert (list(tmp_path.glob("*.spool")), again.size) == ([], end)
    again.append(framed(SpoolRecord(b"next", 1)))
    assert drained(again) == [(b"next", 1)]
    again.close()


def test_a_folder_that_cannot_be_is_said_at_the_start(tmp_path: Path) -> None:
    """With the setting that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="OBSERVER_DATA_DIR"):
        spool_in(tmp_path / "file")


def test_an_empty_file_is_whole(tmp_path: Path) -> None:
    """There is nothing to mend."""
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    assert whole_until(fd, 0) == 0
    os.close(fd)


async def test_the_door_gives_receipts(tmp_path: Path) -> None:
    """A request is acknowledged once it is in the file; without room there is no receipt, counted."""
    spool = Spool(tmp_path, SystemClock(), max_bytes=MIB, max_age_s=1e6)
    log: CommitLog[SpoolRecord] = CommitLog(
        "spool",
        spool.open,
        framed,
        KeptRecords(),
        SystemClock(),
        max_bytes=10_000,
        sync_every_s=0,
        commit_timeout_s=10,
        seal=bytes,
    )
    door = SpoolDoor(log)
    async with asyncio.TaskGroup() as tasks:
        await log.start(tasks)
        receipt = door.put(b"request", 7)
        assert receipt is not None
        await receipt.wait()
        assert b"request" in written(tmp_path)
        assert door.put(b"x" * 20_000, 2) is None
        await log.stop()
    assert (door.accepted, door.refused) == (7, 2)
    assert drained(spool) == [(b"request", 7)]


def written(folder: Path) -> bytes:
    """The bytes of all segments."""
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.spool")))


class KeptRecords(KeptOps):
    """Takes any records."""

    def consume_all(self, ops: object, lines: object) -> None:
        """Nothing."""
