"""Spans that real instrumentations sent (`data/otlp`, recorded by its `record.py`) become the right ops."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidecar.clock import SystemClock
from sidecar.gateway.route_template import Templates
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.receivers.otlp_json import protobuf_request
from sidecar.receivers.otlp_wire import Rejected
from sidecar.redaction import Redactor
from sidecar.spans.conventions import SpanConventions
from sidecar.spans.conventions_table import KINDS

DATA = Path(__file__).parent / "data" / "otlp"
FIXTURES = sorted(DATA.glob("*.json"))


class Want(NamedTuple):
    """What an op must say. *features* is all of them, *extra* some; an *output* that begins with ERROR is a failure."""

    endpoint: str
    asked: str
    output: str
    error_type: str | None = None
    features: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None


USED = {"gen_ai.usage.input_tokens": 21, "gen_ai.usage.output_tokens": 9}
SMALL = {"model": "small-chat"}
TUNED = {"model": "small-chat", "temperature": 0.2, "max_tokens": 64}
MISSING = {"model": "no-such-model"}
EMBED = {"model": "small-embed"}
QUESTION = "Who can drive a forklift in Toledo?"
ANSWER = "Ann and Bo can."
CALLS = "asks for find_workers"
GONE = "ERROR: Error code: 404 - The model `no-such-model` does not exist"
GONE_OLD = "ERROR: Error code: 404 - {'error': {'message': 'The model `no-such-model` does not exist'"
FEW = "ERROR: only 4 workers are forklift drivers"
FOUND = '{"workers":["Ann","Bo"],"role":"forklift"}'
GIVEN = {"role": "forklift", "count": 2}
TOO_MANY = {"role": "forklift", "count": 40}


def tool(
    given: dict[str, Any], output: str, error_type: str | None = None, extra: dict[str, Any] | None = None
) -> Want:
    shown = f'find_workers {{"role":"forklift","count":{given["count"]}'
    return Want("execute_tool find_workers", shown, output, error_type, given, extra)


def chat(output: str, features: dict[str, Any], question: str = QUESTION, error_type: str | None = None) -> Want:
    name = f"chat {features['model']}"
    shown = f"{name}: {question}" if question else name
    return Want(name, shown, output, error_type, features, {} if error_type else USED)


def embeddings(asked: str, output: str = "ok") -> Want:
    shown = f"embeddings small-embed: {asked}" if asked else "embeddings small-embed"
    return Want("embeddings small-embed", shown, output, None, EMBED, {"gen_ai.usage.input_tokens": 21})


ASKED_OF_A_MODEL: list[Want | None] = [
    chat(ANSWER, TUNED),
    chat(CALLS, SMALL),
    chat(ANSWER, SMALL),
    chat(GONE, MISSING, error_type="NotFoundError"),
    embeddings("forklift driver"),
]
WARNED = {"langfuse.observation.level": "WARNING"}
LANGFUSE_DEFAULTS = {"temperature": 1, "top_p": 1}
LANGFUSE: list[Want | None] = [
    tool(GIVEN, FOUND),
    tool(TOO_MANY, FEW, "_OTHER", {"langfuse.observation.level": "ERROR"}),
    tool({**TOO_MANY, "count": 41}, FEW, "ValueError"),
    Want(
        "step plan_week",
        'plan_week {"week":31}',
        "planned",
        None,
        {"week": 31},
        WARNED,
    ),
    chat(ANSWER, SMALL, "Who can drive a forklift?"),
    Want("retrieval shifts", "shifts forklift in Toledo", "open"),
    Want("event shift_opened", 'shift_opened {"city":"Toledo"}', "ok", None, {"city": "Toledo"}),
    chat(ANSWER, {**TUNED, "top_p": 1}),
    chat(CALLS, {**SMALL, **LANGFUSE_DEFAULTS}),
    chat(ANSWER, {**SMALL, **LANGFUSE_DEFAULTS}),
    chat(GONE, {**MISSING, **LANGFUSE_DEFAULTS}, error_type="_OTHER"),
    embeddings("forklift driver", '{"dimensions":3,"count":1}'),
    Want("invoke_agent dispatcher", 'dispatcher {"week":31}', "done", None, {"week": 31}),
]
FINE = {"http.response.status_code": 200}
SEARCHED = {"q": "forklift", "api_key": "[redacted]"}
SEARCH = Want("/search", "POST /search?q=forklift&api_key=[redacted]", "HTTP 200", None, SEARCHED, FINE)
HTTP: list[Want | None] = [
    SEARCH,
    Want("/nowhere/{id}", "POST /nowhere/7", "ERROR: HTTP 404", "404", None, {"http.response.status_code": 404}),
    SEARCH,
    None,  # to another port
]
SHIFT = {"shift.start": "06:00"}
WANTED: dict[str, list[Want | None]] = {
    "langfuse-3": LANGFUSE,
    "langfuse-4": LANGFUSE,
    "langfuse-5": LANGFUSE,
    "openinference_openai": [
        tool(GIVEN, FOUND),
        tool(TOO_MANY, FEW, "ValueError"),
        Want("invoke_agent dispatcher", "dispatcher week 31", "done: week 31"),
        None,  # a chain
        *ASKED_OF_A_MODEL[:2],
        chat(ANSWER, {**SMALL, "stream": True}),
        ASKED_OF_A_MODEL[3],
        embeddings("forklift driver", '{"data":[{"embedding":[0.25,0.5,0.125],"index":0'),
    ],
    "openinference_langchain": [
        tool(GIVEN, FOUND),
        tool(TOO_MANY, FEW, "ValueError"),
        Want("retrieval Shifts", "Shifts forklift in Toledo", '{"documents":[{"id":null'),
        chat(ANSWER, {**SMALL, "stream": False}),
        None,  # a lambda, a chain
        None,  # a sequence
        chat(GONE, {**MISSING, "stream": False}, "Who?", "OpenAIModelNotFoundError"),
    ],
    "openai_v2-": [
        chat("ok", TUNED, ""),
        chat("ok", SMALL, ""),
        chat("ok", SMALL, ""),
        chat(GONE_OLD, MISSING, "", "NotFoundError"),
        embeddings(""),
    ],
    "openai_v2_content": [
        *ASKED_OF_A_MODEL[:3],
        chat(GONE_OLD, MISSING, error_type="NotFoundError"),
        embeddings(""),
    ],
    "openllmetry_openai-0.62": ASKED_OF_A_MODEL,
    "openllmetry_openai-0.49": [
        chat(ANSWER, TUNED),
        chat("ok", SMALL),
        chat(ANSWER, SMALL),
        chat(GONE_OLD, MISSING, error_type="NotFoundError"),
        embeddings("forklift driver"),
    ],
    "traceloop_sdk": [
        tool(GIVEN, FOUND, extra={"gen_ai.agent.name": "dispatcher"}),
        tool(TOO_MANY, FEW, "ValueError"),
        None,  # a task
        Want("invoke_agent dispatcher", 'dispatcher {"args.0":"week 31"}', "WEEK 31", None, {"args.0": "week 31"}),
        *ASKED_OF_A_MODEL,
        None,  # a workflow
    ],
    "util_genai": [
        tool({**GIVEN, **SHIFT}, FOUND, extra={"gen_ai.tool.call.id": "call_2"}),
        tool({**TOO_MANY, **SHIFT}, FEW, "ValueError"),
        Want("retrieval shifts", "shifts forklift in Toledo", "ok"),
        Want("invoke_agent dispatcher", "dispatcher Who can drive a forklift?", ANSWER, None, None, USED),
        None,  # a workflow
    ],
    "evaluation_event": [
        Want("chat small-chat", "chat small-chat", "ok", None, SMALL, {"evaluation.Relevance": 0.9}),
        Want(
            "chat small-chat",
            "chat small-chat",
            "ERROR: Relevance: fail: names nobody",
            "evaluation",
            SMALL,
            {"evaluation.Relevance": 0.1, "evaluation.Relevance.label": "fail"},
        ),
    ],
    "http_clients-": HTTP,
    "http_clients_old": HTTP,
}


@pytest.fixture
def conventions() -> SpanConventions:
    return SpanConventions(
        Normalizer(Redactor()), lambda: ["http://localhost:3700", "http://127.0.0.1:3701"], Templates(), SystemClock()
    )


def sent(path: Path) -> ExportTraceServiceRequest:
    rejected = Rejected()
    request: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(
        protobuf_request(path.read_bytes(), rejected)
    )
    assert not rejected.spans
    return request


def read(conventions: SpanConventions, request: ExportTraceServiceRequest) -> Iterator[ObservedOp | None]:
    for resource_spans in request.resource_spans:
        yield from conventions.ops_of(resource_spans)


def fixture(begins: str) -> Path:
    (path,) = [each for each in FIXTURES if each.name.startswith(begins)]
    return path


def check(op: ObservedOp | None, want: Want | None) -> None:
    if op is None or want is None:
        assert op is None
        assert want is None
        return
    assert (op.endpoint, op.input_summary[: len(want.asked)]) == (want.endpoint, want.asked)
    assert op.output_summary.startswith(want.output)
    assert len(op.output_summary) <= 100
    assert op.success is (want.error_type is None)
    assert op.error_type == want.error_type
    assert (op.error is None) is op.success
    if want.features is not None:
        assert op.features == want.features
    assert {**(op.extra or {}), **(want.extra or {})} == op.extra


@pytest.mark.parametrize("name", WANTED)
def test_spans_of_real_instrumentations_become_the_right_ops(name: str, conventions: SpanConventions) -> None:
    """Endpoint, summaries, outcome, inputs and tokens of every span of a recording; None for what is no operation."""
    ops = list(read(conventions, sent(fixture(name))))
    assert len(ops) == len(WANTED[name])
    for op, want in zip(ops, WANTED[name], strict=True):
        check(op, want)


@pytest.mark.parametrize("name", WANTED)
def test_ops_stand_where_their_spans_stood(name: str, conventions: SpanConventions) -> None:
    """Ids, parents and times are the spans'; the op's own id is the same each time, and sorts by the end."""
    request = sent(fixture(name))
    spans = [span for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]
    ops = list(read(conventions, request))
    for span, op, again in zip(spans, ops, read(conventions, request), strict=True):
        assert op == again
        if op is None:
            continue
        assert (op.trace_id, op.span_id) == (span.trace_id.hex(), span.span_id.hex())
        assert (op.parent_span_id or "") == span.parent_span_id.hex()
        assert op.duration_ms == round((span.end_time_unix_nano - span.start_time_unix_nano) / 1e6, 3)
        assert op.op_id is not None
        assert int(op.op_id.replace("-", "")[:12], 16) == span.end_time_unix_nano // 1_000_000
    assert len({op.op_id for op in ops if op}) == sum(op is not None for op in ops)


@pytest.mark.parametrize(
    ("name", "source", "convention", "task", "staffer"),
    [
        ("langfuse-5", "langfuse", "langfuse", "shift-7", "ann"),
        ("openinference_openai", "otlp", "openinference", "shift-7", "ann"),
        ("traceloop_sdk", "otlp", "openllmetry", "shift-7", "ann"),
        ("openai_v2-", "otlp", "genai", None, None),
        ("http_clients-", "otlp", "http", None, None),
    ],
)
def test_ops_say_whose_they_are(
    name: str, source: str, convention: str, task: str | None, staffer: str | None, conventions: SpanConventions
) -> None:
    """Source, convention, service, session and user of the first operation."""
    op = next(op for op in read(conventions, sent(fixture(name))) if op is not None)
    assert (op.source, op.task, op.staffer_id) == (source, task, staffer)
    assert op.extra is not None
    assert (op.extra["convention"], op.extra["service.name"]) == (convention, "staffing-agent")


def test_every_recording_is_checked_and_every_row_has_one() -> None:
    """No recording lies about unread; no key of the table decides without one."""
    assert {fixture(name) for name in WANTED} == set(FIXTURES)
    everything = "".join(path.read_text() for path in FIXTURES)
    assert [key for key in KINDS if f'"{key}"' not in everything] == []


def test_recordings_name_no_machine() -> None:
    """Nothing of the machine that they were made on is in them."""
    for path in FIXTURES:
        text = path.read_text()
        keys = set(re.findall(r'"key": "((?:host|process|os)\.[^"]*)"', text))
        assert keys == set()
        assert not re.search(r"/(home|root|tmp|work|Users|usr)/", text)
