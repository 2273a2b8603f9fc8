"""What is remembered of OTLP requests: where each door's bytes went, and attempts that failed or are under way."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import JournalError, MalformedError, OverloadedError
from sidecar.export.tail_sampling import TailSampling
from sidecar.receivers.otlp_attempts import MOST_UNFINISHED, Ledger
from sidecar.receivers.otlp_receiver import OtlpIntake
from tests.fakes import ManualClock, an_op
from tests.otlp_disk import Disk, EverySpanIsAnOp, HandReceipt, fail, intake, tools
from tests.otlp_requests import a_failed_span, a_request, a_span, names


class Besides(Disk):
    """Where a door leads besides."""


async def test_the_same_bytes_by_another_door_go_where_that_leads_besides() -> None:
    """Learnt from and spooled once; sent on to Langfuse the first time they come by its door, and then no more."""
    disk, besides = Disk(), Besides()
    door = intake(disk)
    request = tools("a")
    first = await door.take(request)
    for _ in range(2):
        assert await door.take(request, also_to=besides) == first
    assert (disk.ops, disk.requests, besides.requests) == (["tool a"], [request], [request])
    assert (door.spans, door.repeats) == (2, 1)


async def test_two_doors_at_once_do_what_is_to_be_done_once() -> None:
    """One waits for the other, then does what is left."""
    disk, besides = Disk(), Besides()
    disk.holding = []
    door = intake(disk)
    request = tools("a")
    plain = asyncio.create_task(door.take(request))
    await disk.held.wait()
    forwarded = [asyncio.create_task(door.take(request, also_to=besides)) for _ in range(2)]
    for receipt in disk.holding:
        receipt.settle(True)
    await asyncio.gather(plain, *forwarded)
    assert (disk.ops, len(disk.requests), len(besides.requests)) == (["tool a"], 1, 1)


async def test_what_failed_besides_is_done_by_its_own_doors_retry() -> None:
    """The other door neither waits for it nor repeats it."""
    disk, besides = Disk(), Besides()
    besides.failing = {"spool"}
    door = intake(disk)
    request = tools("a")
    with pytest.raises(JournalError):
        await door.take(request, also_to=besides)
    assert (await door.take(request)).spans == 2
    besides.failing = set()
    await door.take(request, also_to=besides)
    assert (disk.ops, disk.requests, besides.requests) == (["tool a"], [request], [request])


async def test_an_attempt_under_way_is_not_forgotten() -> None:
    """However many others fail meanwhile: a retry of it finds what was reached."""
    disk = Disk()
    disk.holding = []
    door = intake(disk)
    request = tools("under way")
    taking = asyncio.create_task(door.take(request))
    await disk.held.wait()
    receipts, disk.holding = disk.holding, None
    await fail(door, disk, MOST_UNFINISHED + 2)
    assert door.forgotten == 1
    again = asyncio.create_task(door.take(request))
    await asyncio.sleep(0)
    for receipt in receipts:
        receipt.settle(True)
    assert await taking == await again
    assert disk.ops.count("tool under way") == 1


async def test_the_request_that_failed_is_not_what_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it alone has more receipts than are kept: what is on disk of it is not done again."""
    monkeypatch.setattr("sidecar.receivers.otlp_attempts.MOST_RECEIPTS", 2)
    disk = Disk()
    disk.failing = {"tool c", "tool d", "tool e"}
    door = intake(disk)
    request = tools("a", "b", "c", "d", "e")
    with pytest.raises(JournalError):
        await door.take(request)
    disk.failing = set()
    await door.take(request)
    assert disk.ops == [f"tool {name}" for name in "abcde"]
    assert (len(disk.requests), door.forgotten) == (1, 0)


async def test_what_is_on_disk_of_a_failed_request_holds_no_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a large one stays known, and its ops are let go."""
    monkeypatch.setattr("sidecar.receivers.otlp_attempts.MOST_RECEIPTS", 2)
    disk = Disk()
    door = intake(disk)
    disk.full_at = 4
    with pytest.raises(OverloadedError):
        await door.take(request := tools("a", "b", "c", "d", "e"))
    disk.full_at = None
    await fail(door, disk, 2)
    await door.take(request)
    assert [op for op in disk.ops if "failed" not in op] == [f"tool {name}" for name in "abcde"]
    assert door.forgotten == 0


async def test_malformed_requests_are_not_remembered() -> None:
    """They reached nothing, and leave the room to those that did."""
    disk = Disk()
    door = intake(disk)
    disk.full_at = 1
    with pytest.raises(OverloadedError):
        await door.take(request := tools("a", "b"))
    disk.full_at = None
    for number in range(2 * MOST_UNFINISHED):
        with pytest.raises(MalformedError):
            await door.take(b"\xff" + bytes([number]))
    await door.take(request)
    assert (disk.ops, door.forgotten) == (["tool a", "tool b"], 0)


async def test_the_older_half_of_what_is_under_way_settles_first() -> None:
    """A large request waits for it before it reads on; what is left keeps its place, and a retry does not repeat it."""
    ledger = Ledger()
    receipts = [HandReceipt(an_op()) for _ in range(5)]
    for receipt in receipts:
        ledger.add(receipt, "never")
    for receipt in receipts[:3]:
        receipt.settle(True)
    await ledger.half_settled()
    assert len(ledger) == 2
    receipts[3].settle(False)
    receipts[4].settle(True)
    with pytest.raises(JournalError):
        await ledger.settled()
    ledger.begin()
    assert [ledger.has_next() for _ in range(4)] == [True, True, True, False]


async def test_a_retry_finds_what_sampling_made_of_the_request() -> None:
    """Sampling gives out held spans once; a request that failed half-way still loses none of them, and repeats none."""
    disk, trace = Disk(), b"\x09" * 16
    door = OtlpIntake(EverySpanIsAnOp(), disk, disk, TailSampling(0.0, ManualClock()))
    held = [a_span(f"held {number}", trace_id=trace, trace_state="x" * 1000) for number in range(1500)]
    await door.take(a_request(*held).SerializeToString())
    spans = [a_span(f"late {number}", trace_id=trace, trace_state="x" * 1000) for number in range(5000)]
    spans[0], spans[4000] = a_failed_span(name="tool 0", trace_id=trace), a_span("tool late", trace_id=trace)
    request = a_request(*spans).SerializeToString()
    disk.full_at = 1
    with pytest.raises(OverloadedError):
        await door.take(request)
    assert len(disk.requests) > 1  # some of it has left
    disk.full_at = None
    await door.take(request)
    assert sorted(names(disk.requests)) == sorted(span.name for span in [*held, *spans])


async def test_what_sampling_made_of_failed_requests_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of them are forgotten, and counted."""
    monkeypatch.setattr("sidecar.receivers.otlp_attempts.MOST_SAMPLED_BYTES", 100)
    disk = Disk()
    door = OtlpIntake(EverySpanIsAnOp(), disk, disk, TailSampling(1.0, ManualClock()))
    await fail(door, disk, 3)
    assert door.forgotten > 0
