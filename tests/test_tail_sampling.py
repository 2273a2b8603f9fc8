"""Which received spans leave when not all shall: a share of the traces, and whatever has to do with a failure."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from sidecar.export import tail_sampling
from sidecar.export.tail_sampling import TailSampling
from tests.fakes import ManualClock
from tests.otlp_requests import a_request, a_span, flat, names

NONE: frozenset[bytes] = frozenset()
OTHER = bytes(15) + b"\x02"


def kept(sampling: TailSampling, *spans: Span, failed: frozenset[bytes] = NONE) -> list[str]:
    """The names of the spans that leave now."""
    data, count = sampling.kept(a_request(*spans).resource_spans[0], failed)
    found = names([data])
    assert len(found) == count
    return found


@given(st.binary(min_size=16, max_size=16).filter(any), st.floats(0, 1))
def test_the_share_is_that_of_the_sdks_sampler(trace_id: bytes, ratio: float) -> None:
    """So that our own spans of a trace and the received ones leave together."""
    asked = TraceIdRatioBased(ratio).should_sample(None, int.from_bytes(trace_id, "big"), "span")
    wanted = ["work"] if asked.decision is Decision.RECORD_AND_SAMPLE else []
    assert kept(TailSampling(ratio, ManualClock()), a_span(trace_id=trace_id)) == wanted


def test_spans_leave_as_they_came() -> None:
    """Resource, scope and span are the same, whichever way they went."""
    request = a_request(*[a_span(f"span {number}", trace_id=os.urandom(16)) for number in range(200)])
    sampling = TailSampling(0.5, ManualClock())
    data, _ = sampling.kept(request.resource_spans[0], NONE)
    late, _ = sampling.kept(a_request().resource_spans[0], frozenset(span.trace_id for span in _spans_of(request)))
    assert 0 < len(flat(data)) < 200
    assert sorted(flat(data + late)) == sorted(flat(request))


def _spans_of(request: object) -> list[Span]:
    return list(request.resource_spans[0].scope_spans[0].spans)  # type: ignore[attr-defined]  # a request


def test_a_failure_brings_its_trace() -> None:
    """What came before it in the trace, what comes with it and what comes after; another trace stays."""
    sampling = TailSampling(0.0, ManualClock())
    failed = frozenset({a_span().trace_id})
    assert kept(sampling, a_span("child"), a_span("other", trace_id=OTHER)) == []
    assert sorted(kept(sampling, a_span("root"), failed=failed)) == ["child", "root"]
    assert kept(sampling, a_span("late"), a_span("other too", trace_id=OTHER)) == ["late"]
    assert sampling.sampled_out == 0


async def test_the_window_ends() -> None:
    """A trace that has not failed by then is let go, counted. A failure stays known: the root of a run comes last."""
    clock = ManualClock()
    sampling = TailSampling(0.0, clock)
    failed = frozenset({a_span().trace_id})
    assert kept(sampling, a_span("early")) == []
    await clock.advance(tail_sampling.WINDOW_S + 1)
    assert kept(sampling, a_span("late"), failed=failed) == ["late"]
    assert sampling.sampled_out == 1
    await clock.advance(100 * tail_sampling.WINDOW_S)
    assert kept(sampling, a_span("root, much later")) == ["root, much later"]


def test_failed_traces_are_remembered_up_to_a_number() -> None:
    """The one that failed longest ago is forgotten first."""
    sampling = TailSampling(0.0, ManualClock())
    traces = [number.to_bytes(16, "big") for number in range(1, tail_sampling.MOST_FAILED + 2)]
    for failed in ({traces[0]}, {traces[1]}, {traces[0]}, set(traces[2:])):  # the first fails twice
        kept(sampling, failed=frozenset(failed))
    kept_still = [kept(sampling, a_span(trace_id=trace_id)) for trace_id in (traces[0], traces[1], traces[-1])]
    assert kept_still == [["work"], [], ["work"]]


def test_what_is_held_is_bounded() -> None:
    """The oldest traces go first, counted."""
    sampling = TailSampling(0.0, ManualClock())
    for number in range(1, 21):
        kept(sampling, a_span("x" * 2**20, trace_id=number.to_bytes(16, "big")))
    assert sampling.sampled_out == 13
    failed = frozenset(number.to_bytes(16, "big") for number in range(1, 21))
    assert len(kept(sampling, failed=failed)) == 7
