"""What the lane makes of the collector's answers: sent again, halved, given up and counted, or left for later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidecar.export.batch import Batch
from sidecar.export.lane import ExportLane
from tests.otlp_receiver import TAKEN, OtlpReceiver, Said, otlp_receiver, request_of, sender, spans_in


class ListSource:
    """A source of one log of named spans; keeps what was settled."""

    evicted = 0

    def __init__(self, *names: str, mixed: bool = False) -> None:
        self.names = list(names)
        self.mixed = mixed
        self.done = 0
        self.splits = 0

    def take(self) -> Batch | None:
        left = self.names[self.done :]
        if not left:
            return None
        ends = list(range(self.done + 1, len(self.names) + 1))
        items = [request_of(name) for name in left]
        return Batch(self.done, ends[-1], items, ends, [1] * len(left), b"".join, False, self.mixed)

    def settle(self, batch: Batch, stop: int) -> None:
        self.done = batch.upto_item(stop)

    def give_back(self, batch: Batch, first: int) -> None:
        assert self.done == batch.start or first > 0

    def has_backlog(self) -> bool:
        return False

    def split(self) -> None:
        self.splits += 1


@asynccontextmanager
async def lane(receiver: OtlpReceiver, source: ListSource, protocol: str = "grpc") -> AsyncIterator[ExportLane]:
    """The real lane from *source* to *receiver*, with hardly any rests."""
    async with sender(receiver, protocol) as made:
        running = ExportLane(
            "lane", source, made, timeout_s=30, drain_s=30, random=lambda: 0.0, linger_s=0.01, base_s=0.01
        )
        async with asyncio.TaskGroup() as tasks:
            await running.start(tasks)
            try:
                yield running
            finally:
                await running.stop()


def refuse(said: Said, when: Callable[[list[str]], bool]) -> Callable[[ExportTraceServiceRequest], Said]:
    """An answer *said* to the requests whose span names fit."""
    return lambda request: said if when([span.name for span in spans_in(request)]) else TAKEN


_TOO_LARGE = {
    "grpc": Said(grpc.StatusCode.RESOURCE_EXHAUSTED, "received message larger than max (5 vs. 4)"),
    "http/protobuf": Said(status=413),
}
_BAD = {"grpc": Said(grpc.StatusCode.INVALID_ARGUMENT, "no"), "http/protobuf": Said(status=400)}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_request_that_is_too_large_is_halved(protocol: str) -> None:
    """Until what is left is taken, or is one span that is too large by itself: that one is lost, counted."""
    async with otlp_receiver() as receiver:
        receiver.answer = refuse(_TOO_LARGE[protocol], lambda names: len(names) > 2 or "huge" in names)
        source = ListSource("a", "b", "c", "huge", "d", "e", "f")
        async with lane(receiver, source, protocol) as running:
            await asyncio.wait_for(receiver.wait_for(6), 60)
        assert [span.name for span in receiver.spans] == ["a", "b", "c", "d", "e", "f"]
        assert (running.exported, running.failed["too_large"], source.done) == (6, 1, 7)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_refused_batch_is_lost_and_the_next_goes_on(protocol: str) -> None:
    """It would be refused again; of several senders' requests only the bad one is lost."""
    async with otlp_receiver() as receiver:
        receiver.answer = refuse(_BAD[protocol], lambda names: "bad" in names)
        own = ListSource("a", "bad", "b")
        async with lane(receiver, own, protocol) as running:
            await asyncio.wait_for(receiver.wait_refused(1), 60)
        assert (running.exported, running.failed["refused"], own.done) == (0, 3, 3)
        others = ListSource("a", "bad", "b", mixed=True)
        async with lane(receiver, others, protocol) as running:
            await asyncio.wait_for(receiver.wait_for(2), 60)
        assert (running.exported, running.failed["refused"], others.done) == (2, 1, 3)


async def test_rejected_spans_are_counted_and_not_sent_again() -> None:
    """A partial success settles the whole batch."""
    async with otlp_receiver() as receiver:
        receiver.answer = lambda _: Said(rejected=2, message="too old")
        source = ListSource("a", "b", "c")
        async with lane(receiver, source) as running:
            await asyncio.wait_for(receiver.wait_for(3), 60)
        assert (running.exported, running.failed["rejected"], receiver.arrived) == (1, 2, 1)


async def test_a_retried_batch_is_backlog_once_it_is_taken() -> None:
    """The lane says so to its source; while stopping one attempt is made, and what is left is not lost."""
    async with otlp_receiver() as receiver:
        receiver.refusals = 2
        source = ListSource("a")
        async with lane(receiver, source) as running:
            await asyncio.wait_for(receiver.wait_for(1), 60)
        assert (running.retries, running.exported, source.splits) == (2, 1, 1)
        receiver.refusals = 10**9
        left = ListSource("b")
        async with lane(receiver, left) as running:
            pass
        assert (left.done, running.exported, sum(running.failed.values())) == (0, 0, 0)


async def test_the_collectors_wish_is_heard_within_bounds() -> None:
    """RetryInfo sets the rest; the stop does not wait for it."""
    async with otlp_receiver() as receiver:
        receiver.answer = lambda _: Said(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", retry_info_s=10**6)
        async with lane(receiver, ListSource("a")) as running:
            await asyncio.wait_for(receiver.wait_refused(1), 60)
            while not running.rest_s:
                await receiver.wait_refused(1)
            assert running.rest_s == 300.0
        assert running.retries <= 2


async def test_a_fault_of_ours_costs_time_only() -> None:
    """What was to be sent stays where it is, and comes when the fault is over."""

    class Faulty(ListSource):
        faults = 1

        def take(self) -> Batch | None:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("a bug")
            return super().take()

    async with otlp_receiver() as receiver, lane(receiver, Faulty("a")):
        await asyncio.wait_for(receiver.wait_for(1), 60)
