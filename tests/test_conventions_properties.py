"""Whatever spans come: reading them never raises; what comes out is normal, bounded, and holds no secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext

from sidecar.gateway.route_template import Templates
from sidecar.model import MOST_DURATION_MS, ObservedOp
from sidecar.normalize import MAX_ENTRIES, Normalizer
from sidecar.redaction import Redactor
from sidecar.spans.attributes import FEATURES_PREFIX, OP_ID, OP_PREFIX
from sidecar.spans.clock_skew import taken_by
from sidecar.spans.conventions import SpanConventions
from sidecar.spans.conventions_table import EVALUATION_EVENT, KEYS, KINDS, NAMED
from sidecar.spans.conventions_values import op_id_of
from sidecar.spans.op_span import OpSpan, placed
from tests.fakes import ManualClock
from tests.strategies import ops

NORMALIZER = Normalizer(Redactor())
TOKEN = "ghp_" + "a1B2c3D4" * 4
MOST_TEXT = 16_384

WORDS = st.sampled_from(
    [
        *("tool", "TOOL", "agent", "LLM", "generation", "chat", "execute_tool", "span", "event", "CHAIN", "ERROR"),
        *(
            "http://localhost:3700/a/1?b=c",
            "http://[::1:3700",
            "200",
            "-1",
            "POST",
            "",
            "[]",
            "{}",
            '{"a": {"b": [1]}}',
        ),
        *('[{"role": "user", "content": [{"text": "x"}]}]', '{"args": [1], "kwargs": {"a": NaN}}', "[" * 5000),
        *('{"args": [1, [2]], "kwargs": {"a": 1}}', '{"input": 1e300, "output": true}', '"\\ud800"', "\x00", TOKEN),
    ]
)
KEYS_SEEN = st.one_of(
    st.sampled_from([*KEYS, OP_ID, *(OP_PREFIX + name for name in NAMED), FEATURES_PREFIX + "row"]),
    st.builds(
        "{}{}{}".format, st.sampled_from(["llm.input_messages.", "gen_ai.prompt."]), st.integers(), st.just(".content")
    ),
    st.text(max_size=20),
)


def fill(value: Any, given: Any) -> None:
    """Set an `AnyValue` to *given*."""
    if isinstance(given, bool):
        value.bool_value = given
    elif isinstance(given, int):
        value.int_value = given
    elif isinstance(given, float):
        value.double_value = given
    elif isinstance(given, bytes):
        value.bytes_value = given
    elif isinstance(given, list):
        value.array_value.SetInParent()
        for each in given:
            fill(value.array_value.values.add(), each)
    elif isinstance(given, dict):
        value.kvlist_value.SetInParent()
        for key, each in given.items():
            entry = value.kvlist_value.values.add(key=key)
            fill(entry.value, each)
    elif isinstance(given, str):
        value.string_value = given


NOW_NS = 1_790_000_000 * 10**9
LATE_NS = 253_402_000_000 * 10**9  # the end of the year 9999: behind nearly all times that are made up
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
VALUES = st.recursive(
    st.one_of(
        *(WORDS, WORDS, TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=8)),
        st.none(),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    span = Span(
        trace_id=draw(st.binary(min_size=16, max_size=16)),
        span_id=draw(st.binary(min_size=8, max_size=8)),
        parent_span_id=draw(st.sampled_from([b"", b"12345678"])),
        name=draw(TEXT),
        kind=draw(st.sampled_from(Span.SpanKind.values())),
        start_time_unix_nano=draw(st.integers(0, 2**64 - 1)),
        end_time_unix_nano=draw(st.integers(0, 2**64 - 1)),
    )
    span.status.code = draw(st.sampled_from(Status.StatusCode.values()))
    span.status.message = draw(TEXT)
    for key, value in draw(st.lists(st.tuples(KEYS_SEEN, VALUES), max_size=12)):
        fill(span.attributes.add(key=key.encode(errors="replace").decode()).value, value)
    for name, said in draw(
        st.lists(
            st.tuples(st.sampled_from([EVALUATION_EVENT, "exception", "x"]), st.lists(VALUES, max_size=4)), max_size=4
        )
    ):
        event = span.events.add(name=name)
        keys = [
            "gen_ai.evaluation.name",
            "gen_ai.evaluation.score.value",
            "gen_ai.evaluation.score.label",
            "exception.type",
        ]
        for key, value in zip(keys, said, strict=False):
            fill(event.attributes.add(key=key).value, value)
    return span


def reader() -> SpanConventions:
    return SpanConventions(NORMALIZER, lambda: ["http://localhost:3700"], Templates(), ManualClock(LATE_NS))


def one_span(**attributes: Any) -> Span:
    span = Span(
        trace_id=b"t" * 16, span_id=b"s" * 8, name="work", start_time_unix_nano=10**18, end_time_unix_nano=10**18
    )
    for key, value in attributes.items():
        fill(span.attributes.add(key=key).value, value)
    return span


def op_of(span: Span) -> ObservedOp:
    op = reader().op_of(span)
    assert op is not None
    return op


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spans())
def test_garbage_never_raises_and_ops_are_normal_and_bounded(span: Span) -> None:
    """Any attributes, any times: an op in the normal form whose every part is bounded, or none."""
    op = reader().op_of(span)
    if op is None:
        return
    assert NORMALIZER.op(op) == op
    assert 0 <= op.duration_ms <= MOST_DURATION_MS
    for text in (
        op.endpoint,
        op.input_summary,
        op.output_summary,
        op.task or "",
        op.staffer_id or "",
        op.error_type or "",
    ):
        assert len(text) <= 400
    for entries in (op.features or {}, op.extra or {}):
        assert len(entries) <= MAX_ENTRIES
        assert all(len(value) <= MOST_TEXT for value in entries.values() if isinstance(value, str))
    assert TOKEN not in repr(op)


@settings(deadline=None)
@given(spans())
def test_a_span_that_is_no_op_alone_is_none_among_others(span: Span) -> None:
    """The look at the bytes that spares reading never overlooks an operation."""
    batch = ResourceSpans()
    scope = batch.scope_spans.add()
    chat = one_span(**{"gen_ai.operation.name": "chat"})
    scope.spans.extend([chat, span])
    other = batch.scope_spans.add()
    other.spans.extend([one_span(), span, one_span(), one_span(), span])
    read = list(reader().ops_of(batch))
    alone = reader().op_of(span)
    assert (read[1], read[3], read[6]) == (alone, alone, alone)
    assert [read[2], read[4], read[5]] == [None] * 3


@settings(deadline=None)
@given(ops())
def test_our_own_ops_come_back_exactly(op: ObservedOp) -> None:
    """From op to span to OTLP and back it is the same op, through the stock encoder."""
    normal = NORMALIZER.op(op)
    context = SpanContext(7, 9, is_remote=False)
    placed_op = placed(normal, context, None)
    span = OpSpan.of(placed_op, context, None, resource=Resource({}), scope=InstrumentationScope("other"))
    (resource_spans,) = encode_spans([span]).resource_spans
    (read,) = reader().ops_of(resource_spans)
    is_whole = normal.op_id is not None and normal.duration_ms <= MOST_DURATION_MS
    assert read == (taken_by(LATE_NS, span.op) if is_whole else None)


@pytest.mark.parametrize(
    ("start_ns", "end_ns", "lasted_ms"),
    [
        (NOW_NS - 1_500_000, NOW_NS, 1.5),
        (NOW_NS - MOST_DURATION_MS * 10**6, NOW_NS, MOST_DURATION_MS),
        (1, NOW_NS, 0),
        (0, NOW_NS, 0),
        (NOW_NS, NOW_NS - 1, 0),
        (1, 2**64 - 1, 0),
    ],
)
def test_a_duration_that_cannot_be_true_is_none(start_ns: int, end_ns: int, lasted_ms: float) -> None:
    """A start of 1 ns is a mistake like one of 0, and would spoil every average. The rest of the span is good."""
    span = one_span(**{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t"})
    span.start_time_unix_nano, span.end_time_unix_nano = start_ns, end_ns
    assert op_of(span).duration_ms == lasted_ms


def test_what_is_our_own_but_not_whole_is_no_op() -> None:
    """An op without its required fields, or with one of another type, is passed on and not learnt from."""
    assert reader().op_of(one_span(**{OP_ID: "x"})) is None
    whole = {"timestamp": "2026-01-31T08:15:00.000Z", "endpoint": "/a", "input_summary": "", "success": True}
    fields = {**whole, "duration_ms": 1, "output_summary": "", "op_id": "x"}
    keys = {f"observer.op.{name}": value for name, value in fields.items()}
    assert op_of(one_span(**keys)).endpoint == "/a"
    for name, wrong in (("success", "yes"), ("timestamp", "yesterday"), ("duration_ms", -1), ("duration_ms", 2e12)):
        assert reader().op_of(one_span(**{**keys, f"observer.op.{name}": wrong})) is None


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"db.system.name": "sqlite", "db.query.text": "SELECT gen_ai.operation.name"},
        {"gen_ai.operation.name": "invoke_workflow"},
        {"gen_ai.operation.name": ""},
        {"gen_ai.operation.name": 7},
        {"openinference.span.kind": "CHAIN"},
        {"openinference.span.kind": "PROMPT"},
        {"traceloop.span.kind": "workflow"},
        {"traceloop.span.kind": "task"},
        {"langfuse.observation.type": "prompt"},
        {"url.full": "http://localhost:3700/x", "http.request.method": "POST"},  # a server's span
    ],
)
def test_other_spans_are_no_ops(attributes: dict[str, Any]) -> None:
    """What only groups others, what says nothing known, and calls to elsewhere or of others."""
    assert reader().op_of(one_span(**attributes)) is None


def test_operations_of_any_name_are_ops() -> None:
    """GenAI names its operations openly: one that came later is an op by its own name."""
    op = op_of(one_span(**{"gen_ai.operation.name": "search_memory", "gen_ai.data_source.id": "shifts"}))
    assert op.endpoint == "search_memory shifts"


def test_the_first_convention_of_the_table_counts() -> None:
    """A span that follows two: the table's order decides, and what only groups yields to what is an operation."""
    both = {"openinference.span.kind": "TOOL", "gen_ai.operation.name": "chat", "tool.name": "find"}
    assert op_of(one_span(**both)).endpoint == "execute_tool find"
    wrapped = {"openinference.span.kind": "CHAIN", "gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    assert op_of(one_span(**wrapped)).endpoint == "chat m"
    assert next(iter(KINDS)) == "langfuse.observation.type"


def test_an_evaluation_on_another_span_is_an_op() -> None:
    """An evaluator's span that is no operation itself tells of one: its own failure, and what it judged."""
    span = one_span()
    event = span.events.add(name=EVALUATION_EVENT)
    for key, value in {"name": "Relevance", "score.value": 0.5, "error.type": "timeout"}.items():
        prefix = "" if key == "error.type" else "gen_ai.evaluation."
        fill(event.attributes.add(key=prefix + key).value, value)
    op = op_of(span)
    assert (op.endpoint, op.success, op.error_type) == ("evaluate Relevance", False, "timeout")
    assert op.extra is not None
    assert op.extra["evaluation.Relevance"] == 0.5


def test_a_level_says_more_than_the_status() -> None:
    """Langfuse: with a level the level counts, without one the status does."""
    span = one_span(**{"langfuse.observation.type": "span", "langfuse.observation.level": "WARNING"})
    span.status.code = Status.STATUS_CODE_ERROR
    assert op_of(span).success
    bare = one_span(**{"langfuse.observation.type": "span"})
    bare.status.code = Status.STATUS_CODE_ERROR
    assert (op_of(bare).success, op_of(bare).error) == (False, "failed")


def test_endpoints_stay_few() -> None:
    """A sender that names each span anew makes no more endpoints than there is room for."""
    conventions = SpanConventions(NORMALIZER, list, Templates(most=50), ManualClock(LATE_NS))
    named = [
        conventions.op_of(one_span(**{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": f"tool {number}"}))
        for number in range(500)
    ]
    assert len({op.endpoint for op in named if op}) <= 52


def test_credentials_are_masked_before_the_op_exists() -> None:
    """Arguments, messages and errors hold none, also where the name alone tells."""
    given = f'{{"api_key": "abc", "note": "use {TOKEN}"}}'
    span = one_span(**{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.call.arguments": given})
    span.status.code = Status.STATUS_CODE_ERROR
    span.status.message = f"401 for {TOKEN}"
    op = op_of(span)
    assert op.features == {"api_key": "[redacted]", "note": "use [redacted]"}
    assert TOKEN not in repr(op)
    assert '"abc"' not in repr(op)


def test_an_op_id_is_a_sortable_uuid() -> None:
    """Version 7: it sorts by the end, and differs by span."""
    first, second = op_id_of(b"t" * 16, b"a" * 8, 10**18), op_id_of(b"t" * 16, b"a" * 8, 10**18 + 10**6)
    assert first < second
    assert first[14] == "7"
    assert first[19] in "89ab"
    assert op_id_of(b"t" * 16, b"b" * 8, 10**18) != first
