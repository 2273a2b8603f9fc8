"""The OTLP requests of the loads: traces of an agent, the same in every run except for their ids.

Two mixes. `agent`: of the 20 spans of each trace three are operations (the agent, a tool, a model call); the others are
what HTTP, database and framework instrumentations add. `ops`: every span is a tool call. A tenth of the tools fail.
"""

from __future__ import annotations

import random
from typing import Literal

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span, Status

from benchmarks.events import ERRORS, PLACES, ROLES

SPANS = 512  # per request, as the SDKs' batch processor sends them
SPANS_A_TRACE = 20
OPS_A_TRACE = 3
SERVICE = "staffing-agent"
Mix = Literal["agent", "ops"]

_BEGAN_NS = 1_800_000_000_000_000_000
_OTHERS = ("GET", "SELECT shifts", "middleware auth", "parse", "cache.get", "render prompt", "retry", "serialize")


def otlp_requests(mix: Mix, count: int, seed: int = 17) -> list[bytes]:
    """*count* requests of `SPANS` spans each, with no id in common."""
    dice = random.Random(seed)
    return [_request(mix, dice) for _ in range(count)]


def ops_in(mix: Mix) -> float:
    """The share of spans that are operations."""
    return 1.0 if mix == "ops" else OPS_A_TRACE / SPANS_A_TRACE


def _request(mix: Mix, dice: random.Random) -> bytes:
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add()
    for key, value in (("service.name", SERVICE), ("service.version", "1.4.2"), ("host.name", "node-7")):
        resource_spans.resource.attributes.add(key=key).value.string_value = value
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name = "opentelemetry.instrumentation.agent"
    left = SPANS
    while left:
        size = min(SPANS_A_TRACE, left)
        _trace(scope_spans, mix, size, dice)
        left -= size
    data: bytes = request.SerializeToString()
    return data


def _trace(scope_spans: ScopeSpans, mix: Mix, size: int, dice: random.Random) -> None:
    trace_id, root = dice.randbytes(16), dice.randbytes(8)
    for number in range(size):
        begun = _BEGAN_NS + dice.randrange(10**9)
        span = scope_spans.spans.add(
            trace_id=trace_id,
            span_id=root if number == 0 else dice.randbytes(8),
            parent_span_id=b"" if number == 0 else root,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=begun,
            end_time_unix_nano=begun + dice.randrange(10**6, 10**9),
            flags=1,
        )
        if mix == "ops" or number == 1:
            _tool(span, dice)
        elif number == 0:
            _name_and_set(span, "invoke_agent staffing", _agent())
        elif number == 2:
            _name_and_set(span, "chat small-chat", _chat(dice))
        else:
            _name_and_set(span, dice.choice(_OTHERS), _other(dice))


def _tool(span: Span, dice: random.Random) -> None:
    city, state = dice.choice(PLACES)
    arguments = f'{{"role":"{dice.choice(ROLES)}","city":"{city}","state":"{state}","count":{dice.randint(1, 12)}}}'
    known: dict[str, str | int] = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "find_workers",
        "gen_ai.tool.call.id": f"call_{dice.getrandbits(64):016x}",
        "gen_ai.tool.call.arguments": arguments,
        "gen_ai.tool.call.result": f'{{"found":{dice.randint(1, 12)}}}',
        "session.id": f"shift-{dice.randint(1, 400)}",
        "user.id": f"st-{dice.randint(1, 40)}",
    }
    if dice.random() < 0.1:
        span.status.code, span.status.message = Status.STATUS_CODE_ERROR, dice.choice(ERRORS)
        known["error.type"] = "ToolError"
    _name_and_set(span, "execute_tool find_workers", known)


def _agent() -> dict[str, str | int]:
    return {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "staffing", "session.id": "shift-17"}


def _chat(dice: random.Random) -> dict[str, str | int]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "small-chat",
        "gen_ai.response.model": "small-chat",
        "gen_ai.usage.input_tokens": dice.randint(100, 4000),
        "gen_ai.usage.output_tokens": dice.randint(10, 400),
        "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"Who can drive a forklift?"}]}]',
        "session.id": f"shift-{dice.randint(1, 400)}",
    }


def _other(dice: random.Random) -> dict[str, str | int]:
    return {
        "code.function.name": "staffing.search.find",
        "thread.id": dice.randrange(64),
        "db.system.name": "postgresql",
        "db.query.text": "SELECT id, name FROM workers WHERE role = $1 AND city = $2 ORDER BY distance LIMIT 50",
        "server.address": "db.staffing.svc",
        "server.port": 5432,
        "db.response.returned_rows": dice.randrange(50),
        "app.cache": "miss",
    }


def _name_and_set(span: Span, name: str, attributes: dict[str, str | int]) -> None:
    span.name = name
    for key, value in attributes.items():
        stored = span.attributes.add(key=key).value
        if isinstance(value, str):
            stored.string_value = value
        else:
            stored.int_value = value
