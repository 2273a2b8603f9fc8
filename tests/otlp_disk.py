"""An `OtlpIntake` over a fake disk that accepts, delays or refuses writes as a test configures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans

from sidecar.errors import JournalError, OverloadedError
from sidecar.model import ObservedOp
from sidecar.receivers.otlp_receiver import OtlpIntake
from tests.fakes import an_op
from tests.otlp_requests import a_request, a_span

FAILED = JournalError("the journal did not accept the record", "told so", "Send it again")


class HandReceipt:
    """A receipt that the test settles; `Disk` settles it at once unless `holding` is set."""

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
    """A `SpanWitness` and a `RequestSpool` in one. It keeps what it accepts; its attributes make it refuse or delay."""

    def __init__(self) -> None:
        self.ops: list[str] = []
        self.requests: list[bytes] = []
        self.spans = 0
        self.full_at: int | None = None  # number of ops
        self.spool_full = False
        self.failing: set[str] = set()  # endpoints whose ops fail, and "spool" for requests
        self.holding: list[HandReceipt] | None = None
        self.held = asyncio.Event()  # set once two receipts are held

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
    """A `SpanReader` that turns each span named `tool…` into an op with that endpoint, and counts the spans read."""

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


async def fail(door: OtlpIntake, disk: Disk, count: int) -> None:
    """Make *count* requests fail: their ops are on disk, but their bytes are not."""
    disk.spool_full = True
    for number in range(count):
        with pytest.raises(OverloadedError):
            await door.take(tools(f"failed {number}"))
    disk.spool_full = False
