"""Spans that would be much larger in memory than as sent are refused before they are parsed, alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.errors import MalformedError, TooLargeError
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_values import check_values
from sidecar.receivers.otlp_wire import delimited
from tests.otlp_disk import Disk, EverySpanIsAnOp
from tests.otlp_requests import a_request, a_span


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand values, looked for in pieces of two kilobytes and more."""
    monkeypatch.setattr("sidecar.receivers.otlp_values.MOST_VALUES", 1000)
    monkeypatch.setattr("sidecar.receivers.otlp_values._SMALL_BYTES", 2000)


def attributes(span: Span) -> None:
    for _ in range(30_000):
        span.attributes.add()


def a_list(span: Span) -> None:
    span.attributes.add(key="k").value.array_value.values.extend([AnyValue(bool_value=True)] * 30_000)


def events(span: Span) -> None:
    for _ in range(300):
        span.events.add().attributes.add().value.kvlist_value.values.extend([KeyValue(key="k")] * 100)


@pytest.mark.usefixtures("bounds")
@pytest.mark.parametrize("fill", [attributes, a_list, events])
async def test_a_span_of_too_many_values_is_refused_alone(fill: Callable[[Span], None]) -> None:
    """Wherever in it they are; the others are learnt from and passed on."""
    large = a_span("tool large")
    fill(large)
    disk = Disk()
    request = a_request(a_span("tool a"), large, a_span("tool b")).SerializeToString()
    taken = await OtlpIntake(EverySpanIsAnOp(), disk, disk).take(request)
    assert (taken.spans, taken.rejected, "over 1000 values" in taken.why) == (2, 1, True)
    assert (disk.ops, disk.spans) == (["tool a", "tool b"], 2)


@pytest.mark.usefixtures("bounds")
def test_what_a_resource_shares_is_counted_too() -> None:
    """It is parsed with its spans."""
    request = a_request(a_span())
    for _ in range(1000):
        request.resource_spans[0].resource.attributes.add()
    with pytest.raises(TooLargeError):
        list(check_values(request.SerializeToString()))


@pytest.mark.usefixtures("bounds")
async def test_large_texts_and_deep_nests_are_not_many_values() -> None:
    """A prompt is one value, whatever its bytes look like; what the parser cannot follow is not followed."""
    assert list(check_values(a_request(a_span("x", trace_state="\n\0" * 100_000)).SerializeToString())) == []
    nest = b""
    for _ in range(500):
        nest = delimited(1, delimited(5, nest))  # a value of a list, which is one itself
    span = delimited(2, a_span(trace_state="x" * 4000).SerializeToString() + delimited(9, delimited(2, nest)))
    deep = delimited(1, delimited(2, span))
    assert list(check_values(deep)) == []
    with pytest.raises(MalformedError):
        await OtlpIntake(EverySpanIsAnOp(), Disk()).take(deep)


async def test_others_have_their_turn_while_values_are_counted() -> None:
    """Counting half a million takes a second."""
    span = a_span("tool wide")
    for number in range(60_000):
        span.attributes.add(key=f"key number {number}, as large as keys are")
    request = a_request(span).SerializeToString()
    walk = check_values(request)
    assert len(list(walk)) > 50
    taking = asyncio.create_task(OtlpIntake(EverySpanIsAnOp(), Disk()).take(request))
    turns = 0
    while not taking.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await taking).spans == 1
    assert turns > 3
