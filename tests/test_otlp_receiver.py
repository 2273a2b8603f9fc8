"""What is done of a request that comes once, again, or that the disk refuses: each part of it exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from sidecar.errors import JournalError, MalformedError, OverloadedError
from sidecar.model import ObservedOp
from sidecar.receivers.otlp_attempts import MOST_UNFINISHED
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_wire import Rejected
from tests.fakes import an_op
from tests.otlp_requests import a_failed_span, a_request, a_span, flat, names

FAILED = JournalError("the journal did not take it", "told so", "Send it again")


class HandReceipt:
    """A receipt that is settled when the test says so; at once unless *open* was asked for."""

    def __init__(self, op: ObservedOp) -> None:
        self.op = op
        self.taken: bool | None = None
        self._done = asyncio.Event()

    def settle(self, taken: bool) -> None:
        self.taken = taken
        self._done.set()

    async def wait(self) -> None:
        await self._done.wait()
        if not self.taken:
            raise FAILED


class Disk:
    """Both ways to it, a `SpanWitness` and a `RequestSpool`: keeps what it takes, and refuses what it is told to."""

    def __init__(self) -> None:
        self.ops: list[str] = []
        self.requests: list[bytes] = []
        self.spans = 0
        self.full_at: int | None = None  # ops
        self.spool_full = False
        self.failing: set[str] = set()  # endpoints, and "spool"
        self.holding: list[HandReceipt] | None = None
        self.held = asyncio.Event()  # two receipts are

    def witness(self, op: ObservedOp) -> HandReceipt | None:
        if self.full_at is not None and len(self.ops) >= self.full_at:
            return None
        receipt = self._receipt(op, op.endpoint not in self.failing)
        if op.endpoint not in self.failing:
            self.ops.append(op.endpoint)
        return receipt

    def put(self, request: bytes, spans: int) -> HandReceipt | None:
        if self.spool_full:
            return None
        if "spool" not in self.failing:
            self.requests.append(request)
            self.spans += spans
        return self._receipt(an_op(), "spool" not in self.failing)

    def _receipt(self, op: ObservedOp, taken: bool) -> HandReceipt:
        receipt = HandReceipt(op)
        if self.holding is not None:
            self.holding.append(receipt)
            if len(self.holding) == 2:
                self.held.set()
        else:
            receipt.settle(taken)
        return receipt


class EverySpanIsAnOp:
    """A `SpanReader` that takes each span named `tool…` as an op of that endpoint, and counts its reads."""

    def __init__(self) -> None:
        self.reads = 0

    def ops_of(self, resource_spans: ResourceSpans) -> Iterable[ObservedOp | None]:
        for scope in resource_spans.scope_spans:
            for span in scope.spans:
                self.reads += 1
                ids = {"trace_id": span.trace_id.hex(), "span_id": span.span_id.hex()}
                yield an_op(endpoint=span.name, **ids) if span.name.startswith("tool") else None


def intake(disk: Disk, reader: EverySpanIsAnOp | None = None) -> OtlpIntake:
    return OtlpIntake(reader or EverySpanIsAnOp(), disk, disk)


def tools(*suffixes: str) -> bytes:
    request: bytes = a_request(*[a_span(f"tool {each}") for each in suffixes], a_span("other")).SerializeToString()
    return request


async def test_ops_are_recorded_and_the_bytes_passed_on() -> None:
    """Learnt from what is an operation; what goes to the spool is the very request."""
    disk = Disk()
    request = tools("a", "b")
    taken = await intake(disk).take(request)
    assert (taken.spans, taken.rejected) == (3, 0)
    assert taken.response().SerializeToString() == b""
    assert disk.ops == ["tool a", "tool b"]
    assert disk.requests == [request]


async def test_without_a_spool_spans_are_learnt_from_only() -> None:
    """No collector is configured: nothing waits for one."""
    disk = Disk()
    assert (await OtlpIntake(EverySpanIsAnOp(), disk).take(tools("a"))).spans == 2
    assert (disk.ops, disk.requests) == (["tool a"], [])


async def test_a_request_is_acknowledged_once_all_of_it_is_on_disk() -> None:
    """Not before the last receipt, of the journal or of the spool."""
    disk = Disk()
    disk.holding = []
    taking = asyncio.create_task(intake(disk).take(tools("a")))
    await disk.held.wait()
    for receipt in disk.holding:
        assert not taking.done()
        receipt.settle(True)
    assert (await taking).spans == 2


async def test_a_repeated_request_is_acknowledged_and_not_done_again() -> None:
    """The acknowledgement was lost on the way: the sender sends the same bytes."""
    disk, reader = Disk(), EverySpanIsAnOp()
    door = intake(disk, reader)
    first = await door.take(tools_ := tools("a"))
    assert await door.take(tools_) == first
    assert (disk.ops, len(disk.requests), reader.reads, door.repeats) == (["tool a"], 1, 2, 1)


async def test_a_retry_during_the_first_attempt_waits_for_it() -> None:
    """A sender that was too impatient: both get the one result."""
    disk = Disk()
    disk.holding = []
    door = intake(disk)
    request = tools("a")
    both = [asyncio.create_task(door.take(request)) for _ in range(2)]
    await disk.held.wait()
    for receipt in disk.holding:
        receipt.settle(True)
    first, second = await asyncio.gather(*both)
    assert first == second
    assert (disk.ops, len(disk.requests)) == (["tool a"], 1)


async def test_a_retry_after_the_journal_was_full_goes_on_where_it_stopped() -> None:
    """What was recorded is not recorded twice; nothing went to the spool before."""
    disk = Disk()
    disk.full_at = 1
    door = intake(disk)
    request = tools("a", "b")
    with pytest.raises(OverloadedError):
        await door.take(request)
    assert (disk.ops, disk.requests) == (["tool a"], [])
    disk.full_at = None
    await door.take(request)
    assert (disk.ops, disk.requests) == (["tool a", "tool b"], [request])


async def test_a_retry_after_the_spool_refused_records_nothing_again() -> None:
    """The journal had taken it."""
    disk = Disk()
    disk.spool_full = True
    door = intake(disk)
    request = tools("a", "b")
    with pytest.raises(OverloadedError):
        await door.take(request)
    disk.spool_full = False
    await door.take(request)
    assert (disk.ops, disk.requests) == (["tool a", "tool b"], [request])


@pytest.mark.parametrize("failing", ["tool b", "spool"])
async def test_a_retry_after_a_failed_write_repeats_what_failed_alone(failing: str) -> None:
    """Whichever of both disks it was."""
    disk = Disk()
    disk.failing = {failing}
    door = intake(disk)
    request = tools("a", "b")
    with pytest.raises(JournalError):
        await door.take(request)
    disk.failing = set()
    await door.take(request)
    assert sorted(disk.ops) == ["tool a", "tool b"]
    assert disk.requests == [request]


async def test_a_cancelled_sender_leaves_nothing_half_done() -> None:
    """Its deadline passed while the disk was slow; its retry finds the first attempt's receipts."""
    disk = Disk()
    disk.holding = []
    door = intake(disk)
    request = tools("a")
    taking = asyncio.create_task(door.take(request))
    await disk.held.wait()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    for receipt in disk.holding:
        receipt.settle(True)
    disk.holding = None
    assert (await door.take(request)).spans == 2
    assert (disk.ops, len(disk.requests)) == (["tool a"], 1)


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


async def fail(door: OtlpIntake, disk: Disk, count: int) -> None:
    """*count* requests whose ops are on disk and whose bytes are not."""
    disk.spool_full = True
    for number in range(count):
        with pytest.raises(OverloadedError):
            await door.take(tools(f"failed {number}"))
    disk.spool_full = False


async def test_refused_spans_go_nowhere() -> None:
    """They are named in the answer, neither learnt from nor passed on; the rest is."""
    disk = Disk()
    good = a_request(a_span("tool good"), a_span("other"))
    bad = a_request(a_span("tool bad", span_id=b""), *good.resource_spans[0].scope_spans[0].spans)
    taken = await intake(disk).take(bad.SerializeToString())
    assert taken.response().partial_success.rejected_spans == 1
    assert "span_id" in taken.response().partial_success.error_message
    assert disk.ops == ["tool good"]
    assert [flat(request) for request in disk.requests] == [flat(good)]


async def test_nothing_readable_is_malformed_and_nothing_is_kept() -> None:
    """Also where the frame is sound and no span in it is."""
    disk = Disk()
    for request in (b"\xff\xff", a_request(a_span("bad!")).SerializeToString().replace(b"bad!", b"bad\xff")):
        with pytest.raises(MalformedError):
            await intake(disk).take(request)
    assert (disk.ops, disk.requests) == ([], [])


async def test_large_requests_are_passed_on_in_parts_that_collectors_take() -> None:
    """All of it, in order, none over 4 MiB."""
    disk = Disk()
    request = a_request(*[a_span(f"span {number}", trace_state="x" * 1000) for number in range(9000)])
    await intake(disk).take(request.SerializeToString())
    assert max(map(len, disk.requests)) <= 4 * 2**20
    assert len(disk.requests) > 2
    assert disk.spans == 9000
    assert [each for part in disk.requests for each in flat(part)] == flat(request)


async def test_other_tasks_run_while_a_large_request_is_read() -> None:
    """Reading is cut into turns of some milliseconds."""
    disk = Disk()
    request = a_request(*[a_span(f"tool {number}") for number in range(5000)]).SerializeToString()
    taking = asyncio.create_task(intake(disk).take(request))
    turns = 0
    while not taking.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 5
    assert len(disk.ops) == 5000


async def test_sampling_sees_which_traces_failed_by_status_or_by_op() -> None:
    """Both are failures to the export: what the span says, and what it means."""
    asked: list[frozenset[bytes]] = []

    class Nothing:
        def kept(self, _piece: ResourceSpans, failed: frozenset[bytes]) -> tuple[bytes, int]:
            asked.append(failed)
            return b"", 0

    class FailedTools(EverySpanIsAnOp):
        def ops_of(self, resource_spans: ResourceSpans) -> Sequence[ObservedOp | None]:
            found = [op for op in super().ops_of(resource_spans) if op is not None]
            return [an_op(success=False, trace_id=op.trace_id, span_id=op.span_id) for op in found]

    disk = Disk()
    by_op, by_status, good = (number.to_bytes(16, "big") for number in (1, 2, 3))
    spans = [a_span("tool", trace_id=by_op), a_failed_span(trace_id=by_status), a_span(trace_id=good)]
    door = OtlpIntake(FailedTools(), disk, disk, Nothing())
    assert (await door.take(a_request(*spans).SerializeToString())).spans == 3
    assert asked == [frozenset({by_op, by_status})]
    assert disk.requests == []


async def test_an_empty_request_is_taken() -> None:
    """Source: OTLP specification: the server should answer it as a success."""
    disk = Disk()
    assert (await intake(disk).take(b"", Rejected())).spans == 0
    assert names(disk.requests) == []
