"""docs/otlp.md says which spans are operations, and shows an agent that asks first: both are what happens."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import httpx
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from sidecar.pipeline.observer import Observer
from sidecar.spans.conventions_table import KEYS, KINDS
from tests.doc_pages import PAGES
from tests.observers import client, cycle, journal, observer

PAGE = PAGES["docs/otlp.md"]
GATEWAY = "http://gateway.test:3700"
GIVEN = json.dumps({"row": 12, "seat": {"side": "left"}, "extras": ["meal"]})
FEATURES = {"row": 12, "seat.side": "left"}
FAILED = Status(StatusCode.ERROR, "no such row")


class Row(NamedTuple):
    """A span as an agent's SDK makes it, and what it becomes; *endpoint* "" if it is no operation."""

    attributes: dict[str, Any]
    endpoint: str
    features: dict[str, Any] | None = None
    error: str | None = None
    task: str | None = None
    staffer_id: str | None = None
    kind: SpanKind = SpanKind.INTERNAL
    status: Status = Status()
    event: dict[str, Any] | None = None
    fields: dict[str, Any] | None = None  # more of the operation's


GENAI, MODEL = "gen_ai.operation.name", {"gen_ai.request.model": "small"}
LANGFUSE, OPENINFERENCE, TRACELOOP = "langfuse.observation.type", "openinference.span.kind", "traceloop.span.kind"
TOOL = {"gen_ai.tool.name": "book_seat", "gen_ai.tool.call.arguments": GIVEN, "gen_ai.conversation.id": "trip-1"}
ROWS = {
    "genai tool": Row(
        {GENAI: "execute_tool", **TOOL, "user.id": "ann"}, "execute_tool book_seat", FEATURES, None, "trip-1", "ann"
    ),
    "genai tool, failed": Row(
        {GENAI: "execute_tool", **TOOL}, "execute_tool book_seat", FEATURES, "no such row", "trip-1", status=FAILED
    ),
    "genai agent": Row({GENAI: "invoke_agent", "gen_ai.agent.name": "clerk"}, "invoke_agent clerk"),
    "genai chat": Row(
        {GENAI: "chat", **MODEL, "gen_ai.request.temperature": 0.5, "gen_ai.input.messages": '[{"a": 1}]'},
        "chat small",
        {"model": "small", "temperature": 0.5},
    ),
    "genai, own word": Row({GENAI: "translate"}, "translate span"),
    "genai workflow": Row({GENAI: "invoke_workflow"}, ""),
    "genai, evaluated": Row(
        {GENAI: "chat", **MODEL},
        "chat small",
        {"model": "small"},
        "Facts: fail",
        event={"gen_ai.evaluation.name": "Facts", "gen_ai.evaluation.score.label": "fail"},
    ),
    "evaluation alone": Row(
        {},
        "evaluate Facts",
        event={"gen_ai.evaluation.name": "Facts", "gen_ai.evaluation.score.value": 0.0},
    ),
    "openinference tool": Row(
        {OPENINFERENCE: "TOOL", "tool.name": "book_seat", "input.value": GIVEN, "session.id": "trip-2"},
        "execute_tool book_seat",
        FEATURES,
        task="trip-2",
    ),
    "openinference agent": Row({OPENINFERENCE: "AGENT", "agent.name": "clerk"}, "invoke_agent clerk"),
    "openinference reranker": Row(
        {OPENINFERENCE: "RERANKER", "reranker.model_name": "sort"}, "rerank sort", {"model": "sort"}
    ),
    "openinference llm": Row({OPENINFERENCE: "LLM", "llm.model_name": "small"}, "chat small", {"model": "small"}),
    "openinference chain": Row({OPENINFERENCE: "CHAIN"}, ""),
    "openllmetry tool": Row(
        {
            TRACELOOP: "tool",
            "traceloop.entity.name": "book_seat",
            "traceloop.entity.input": GIVEN,
            "traceloop.association.properties.thread_id": "trip-3",
            "traceloop.association.properties.user_id": "ann",
        },
        "execute_tool book_seat",
        FEATURES,
        task="trip-3",
        staffer_id="ann",
    ),
    "openllmetry workflow": Row({TRACELOOP: "workflow"}, ""),
    "openllmetry task": Row({TRACELOOP: "task"}, ""),
    "openllmetry, old": Row({"llm.request.type": "completion", **MODEL}, "text_completion small", {"model": "small"}),
    "langfuse tool": Row({LANGFUSE: "tool", "langfuse.observation.input": GIVEN}, "execute_tool span", FEATURES),
    "langfuse span": Row({LANGFUSE: "span"}, "step span"),
    "langfuse generation": Row(
        {LANGFUSE: "generation", "langfuse.observation.model.name": "small"}, "chat small", {"model": "small"}
    ),
    "langfuse evaluator": Row({LANGFUSE: "evaluator"}, "evaluate span"),
    "langfuse chain": Row({LANGFUSE: "chain"}, "chain span"),
    "langfuse, level ERROR": Row(
        {
            LANGFUSE: "tool",
            "langfuse.observation.level": "ERROR",
            "langfuse.observation.status_message": "full",
        },
        "execute_tool span",
        error="full",
    ),
    "langfuse, level before status": Row(
        {LANGFUSE: "tool", "langfuse.observation.level": "WARNING"}, "execute_tool span", status=FAILED
    ),
    "langfuse before genai": Row({LANGFUSE: "span", GENAI: "execute_tool"}, "step span"),
    "http to the gateway": Row(
        {"url.full": f"{GATEWAY}/orders/7?city=Boise", "http.response.status_code": 409},
        "/orders/{id}",
        {"city": "Boise"},
        "HTTP 409",
        kind=SpanKind.CLIENT,
    ),
    "http, old names": Row({"http.url": f"{GATEWAY}/orders/7"}, "/orders/{id}", kind=SpanKind.CLIENT),
    "http elsewhere": Row({"url.full": "http://elsewhere.test/orders/7"}, "", kind=SpanKind.CLIENT),
    "http, not a client": Row({"url.full": f"{GATEWAY}/orders/7"}, "", kind=SpanKind.SERVER),
    "ours": Row(
        {
            "observer.op.op_id": "op-1",
            "observer.op.timestamp": "2026-07-01T10:00:00.000Z",
            "observer.op.endpoint": "/fill",
            "observer.op.source": "event",
            "observer.op.input_summary": "x",
            "observer.op.output_summary": "ok",
            "observer.op.success": True,
            "observer.op.duration_ms": 1.0,
            "observer.op.task": "trip-4",
            "observer.op.features.row": 3,
        },
        "/fill",
        {"row": 3},
        task="trip-4",
    ),
    "fields of its own": Row(
        {
            GENAI: "execute_tool",
            **TOOL,
            "observer.op.task": "trip-5",
            "observer.op.staffer_id": "bo",
            "observer.op.exposure_id": "ex-1",
            "observer.op.role": "clerk",
            "observer.op.city": "Boise",
            "observer.op.state": "ID",
            "observer.op.count": 2,
            "observer.op.features.row": 13,
            "observer.op.features.window": True,
        },
        "execute_tool book_seat",
        {**FEATURES, "row": 13, "window": True},
        task="trip-5",
        staffer_id="bo",
        fields={"exposure_id": "ex-1", "role": "clerk", "city": "Boise", "state": "ID", "count": 2},
    ),
    "fields of the wrong type, or not to be named": Row(
        {
            GENAI: "execute_tool",
            **TOOL,
            "observer.op.task": 5,
            "observer.op.role": "",
            "observer.op.city": True,
            "observer.op.count": "2",
            "observer.op.state": ["ID"],
            "observer.op.features.row": [13],
            "observer.op.success": False,
            "observer.op.endpoint": "/other",
            "observer.op.trace_id": "0" * 31 + "1",
            "observer.op.amends": "op-1",
        },
        "execute_tool book_seat",
        FEATURES,
        task="trip-1",
        fields=dict.fromkeys(["role", "city", "count", "state", "amends"]),
    ),
    "fields alone": Row({"observer.op.task": "trip-6", "observer.op.features.row": 1}, ""),
    "no convention": Row({"row": 12}, ""),
}


def _sent(url: str) -> dict[str, str]:
    """The name of each row's span by its span id; sent by the stock exporter."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    tracer = provider.get_tracer("agent")
    sent = {}
    for name, row in ROWS.items():
        with tracer.start_as_current_span("span", kind=row.kind, attributes=row.attributes) as span:
            if row.event is not None:
                span.add_event("gen_ai.evaluation.result", row.event)
            span.set_status(row.status)
        sent[f"{span.get_span_context().span_id:016x}"] = name
    provider.shutdown()
    return sent


async def test_spans_become_the_operations_that_the_page_says(tmp_path: Path) -> None:
    """One span of each row: the endpoint, inputs, outcome, task and user of its operation, or none."""
    async with observer(tmp_path, GATEWAY_URL=GATEWAY) as running:
        sent = await asyncio.to_thread(_sent, f"http://127.0.0.1:{running.port}")
    came = {sent[line["span_id"]]: line for line in journal(tmp_path)}
    for name, row in ROWS.items():
        op = came.get(name, {})
        assert op.get("endpoint", "") == row.endpoint, name
        if op:
            said = [op.get(field) for field in ("features", "error", "task", "staffer_id")]
            assert said == [row.features, row.error, row.task, row.staffer_id], name
            assert op["success"] is (row.error is None), name
            for field, value in (row.fields or {}).items():
                assert op.get(field) == value, (name, field)


def test_the_page_names_the_attributes_of_the_table() -> None:
    """All that decide, and all that an operation's task, user, subject and error are taken from."""
    section = PAGE.section("## Which spans are operations")
    named = re.findall(r"`([^`]+)`", section)
    before = "traceloop.association.properties."
    named = [each.replace("….", before) for each in named]
    facts = ("task", "staffer_id", "tool", "agent", "entity", "data_source", "model", "message", "error_type", "url")
    taken = [key for key, (fact, _) in KEYS.items() if fact in facts]
    assert [key for key in (*KINDS, *taken) if key not in named] == []


def _call() -> tuple[Callable[..., Any], dict[str, Any]]:
    found = re.search(r"```python\n(.*?)```", PAGE.section("## An agent that asks first"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], str(PAGE.path), "exec"), names)
    return names["call"], names


def book_seat(row: int, fare: str) -> str:
    """A tool that mostly fails for one fare."""
    if fare == "basic" and row % 5:
        raise ValueError("this fare has no seats")
    return f"{row}A"


async def test_the_agent_of_the_page_is_advised_and_its_spans_are_the_outcomes(tmp_path: Path) -> None:
    """What it learns from is its spans alone; each task that asked is counted once, in one group or the other."""
    async with observer(tmp_path) as running, client(running) as http:
        entry, came = await asyncio.wait_for(_asked_and_counted(running, http), 60)
        measured = (await http.get(f"/playbooks/{entry['playbook_id']}")).json()["measured"]
        shown, withheld = measured["shown"], measured["withheld"]
        assert (shown["tasks"] + withheld["tasks"], shown["reported"] + withheld["reported"]) == (30, 0)
        assert shown["successes"] == shown["tasks"] > 0
        assert came == shown["successes"] + withheld["successes"]


async def _asked_and_counted(running: Observer, http: httpx.AsyncClient) -> tuple[dict[str, Any], int]:
    call, names = _call()
    names["observer"].close()
    names["observer"] = httpx.Client(base_url=str(http.base_url), timeout=30.0, trust_env=False)
    names["provider"].shutdown()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(names["BatchSpanProcessor"](OTLPSpanExporter(f"{http.base_url}/v1/traces")))
    names["tracer"] = provider.get_tracer("my-agent")

    def work(tasks: int, fares: list[str], kind: str) -> int:
        done = 0
        for number in range(tasks):
            try:
                call(book_seat, {"row": number, "fare": dice.choice(fares)}, f"{kind}-{number}")
                done += 1
            except ValueError:
                pass
        assert provider.force_flush()
        return done

    dice = Random(1)
    try:
        await asyncio.to_thread(work, 200, ["basic", "flex"], "before")
        await cycle(running)
        (entry,) = [each for each in (await http.get("/playbooks")).json()["playbooks"] if each["author"] == "rule"]
        came = await asyncio.to_thread(work, 30, ["basic"], "trip")
    finally:
        provider.shutdown()
        names["observer"].close()
    await cycle(running)
    return entry, came
