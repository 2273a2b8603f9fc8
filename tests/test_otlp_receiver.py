"""What is done of a request that comes once, again, or that the disk refuses: each part of it exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from sidecar.errors import JournalError, MalformedError, OverloadedError
from sidecar.model import ObservedOp
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_wire import Rejected
from tests.fakes import an_op
from tests.otlp_disk import Disk, EverySpanIsAnOp, HandReceipt, intake, tools
from tests.otlp_requests import a_failed_span, a_request, a_span, flat, names


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


class LazyReceipt(HandReceipt):
    """A receipt that settles when it is awaited, and not before."""

    def __init__(self, op: ObservedOp, taken: bool) -> None:
        super().__init__(op)
        self._will = taken

    async def wait(self) -> None:
        self.settle(self._will)
        await super().wait()


class LazyDisk(Disk):
    """A disk that writes nothing until somebody waits for it; *most* is how many requests it had to hold."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.receipts: list[LazyReceipt] = []
        self.most = 0
        self._fails_at = fails_at

    def put(self, request: bytes, spans: int) -> HandReceipt | None:
        self.failing = {"spool"} if len(self.receipts) == self._fails_at else set()
        return super().put(request, spans)

    def _receipt(self, op: ObservedOp, taken: bool) -> HandReceipt:
        receipt = LazyReceipt(op, taken)
        self.receipts.append(receipt)
        self.most = max(self.most, sum(each.taken is None for each in self.receipts))
        return receipt


def a_large_request() -> ExportTraceServiceRequest:
    return a_request(*[a_span(f"span {number}", trace_state="x" * 1000) for number in range(15_000)])


async def test_few_parts_of_a_large_request_wait_for_the_disk_at_once() -> None:
    """Each is held several times on its way to the file."""
    disk, request = LazyDisk(), a_large_request()
    await intake(disk).take(request.SerializeToString())
    assert (disk.most, len(disk.receipts) > 6) == (2, True)
    assert [each for part in disk.requests for each in flat(part)] == flat(request)


async def test_a_part_of_a_large_request_that_failed_is_put_again_alone() -> None:
    """The retry finds what is on disk of the others, and goes on."""
    disk, request = LazyDisk(fails_at=1), a_large_request()
    door, data = intake(disk), request.SerializeToString()
    with pytest.raises(JournalError):
        await door.take(data)
    assert len(disk.receipts) == 3
    await door.take(data)
    assert sorted(each for part in disk.requests for each in flat(part)) == sorted(flat(request))


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
