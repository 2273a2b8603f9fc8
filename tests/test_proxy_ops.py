"""Each call through the proxy is a CLIENT span and an op that tells what was asked and what came of it."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import SpanKind, StatusCode

from sidecar.clock import SystemClock
from sidecar.gateway.gateway_proxy import GatewayProxy
from sidecar.gateway.proxy_parts import ProxyLimits
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.pipeline.observer import Observer
from sidecar.protocols import CallSpans
from sidecar.redaction import Redactor
from sidecar.spans.recorder import OpRecorder
from tests.fakes import KeptSpans
from tests.observers import FaultyFile, journal, settled
from tests.otlp_receiver import attributes_dict, otlp_receiver
from tests.proxied import (
    Message,
    Pairs,
    RawGateway,
    answer,
    connected,
    exchange,
    proxied,
    proxy_port,
    raw_gateway,
    request,
)

JSON = [("Content-Type", "application/json")]


def says(body: object, status: int = 200, kind: str = "application/json", more: str = "") -> bytes:
    """A response with *body*: bytes, or something for JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status} Said\r\nContent-Type: {kind}\r\n{more}Content-Length: {len(data)}\r\n\r\n".encode() + data
    )


async def op_of(
    running: Observer, gateway: RawGateway, sent: bytes, reply: bytes, *, keep: bool = True
) -> tuple[ObservedOp, Message]:
    """The op of one call, and what the agent got."""
    assert running.proxy is not None
    gateway.answering = answer(reply, keep=keep)
    before = running.ring.successes + running.ring.failures
    got = await exchange(proxy_port(running), sent)
    await settled(running, before + 1)
    return running.ring.ops()[-1], got


async def test_a_call_is_an_op_with_its_inputs(tmp_path: Path) -> None:
    """Endpoint, summaries, features of body and query, what the agent's headers say, duration, ids."""
    fields: Pairs = [("X-Observer-Op-Staffer", "st-1"), ("x-observer-op-task", "t-9"), ("X-Observer-Op-Count", "3")]
    fields += [
        ("X-Observer-Op-Role", "cook"),
        ("X-Observer-Op-Colour", "red"),
        ("X-Observer-Op-Rescue-Attempted", "true"),
    ]
    body = json.dumps(
        {"role": "welder", "n": 2, "at": {"city": "Boise"}, "api_key": "hunter2hunter2", "l": [1]}
    ).encode()
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        sent = request("POST", "/tools/HAT030/fill?urgent=yes&token=hunter2hunter2", [*JSON, *fields], body)
        op, got = await op_of(running, gateway, sent, says({"rows": [1, 2]}))
    assert (op.endpoint, op.success, op.output_summary, op.source) == ("/tools/{id}/fill", True, "2 rows", "mcp")
    assert (op.staffer_id, op.task, op.count, op.role, op.rescue_attempted) == ("st-1", "t-9", 3, "cook", True)
    assert op.extra == {"colour": "red"}
    assert op.features == {
        "urgent": "yes",
        "token": "[redacted]",
        "role": "welder",
        "n": 2,
        "at.city": "Boise",
        "api_key": "[redacted]",
    }
    assert "hunter2" not in (tmp_path / "data" / "ops.jsonl").read_text()
    assert got.header("x-observer-trace-id") == op.trace_id
    assert [name for name, _ in gateway.asked[0].headers if name.lower().startswith("x-observer-op")] == []
    assert gateway.asked[0].header("traceparent") == f"00-{op.trace_id}-{op.span_id}-01"
    (line,) = journal(tmp_path)
    beside = line["span"]["attributes"]
    assert beside["http.response.status_code"] == 200
    assert 0 < beside["observer.proxy.first_byte_ms"] <= op.duration_ms
    assert "[redacted]" in beside["url.full"]


@pytest.mark.parametrize(
    "query",
    [
        "password=a%20s3cr3tValue",
        "access%5Ftoken=s3cr3tValue",
        "access%255Ftoken=s3cr3tValue",
        "ACCESS%5FTOKEN=s3cr3tValue%20s3cr3tValue",
        "sv=1&sig=s3cr3tValue%3D",
        "X-Amz-Credential=s3cr3tValue%2Fs3&X-Amz-Signature=s3cr3tValue",
        "next=https%3A%2F%2Fh%2F%3Ftoken%3Da%2520s3cr3tValue",
        "user%5Bpassword%5D=s3cr3tValue",
    ],
)
async def test_no_credential_of_a_target_is_kept(tmp_path: Path, query: str) -> None:
    """However it is coded: neither in the op nor in the span, while the gateway gets the target as it was."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        op, _ = await op_of(running, gateway, request("GET", f"/x?a=1&{query}&z=2"), says({}))
        assert gateway.asked[0].first == f"GET /x?a=1&{query}&z=2 HTTP/1.1"
    assert op.features is not None
    assert (op.features["a"], op.features["z"]) == ("1", "2")
    assert "s3cr3t" not in (tmp_path / "data" / "ops.jsonl").read_text()


_OUTCOMES: list[tuple[bytes, bool, str | None, str | None, str]] = [
    (says({"error": "no shift"}), False, "no shift", "_OTHER", "ERROR: no shift"),
    (says({"error": {"code": 7}}), False, '{"code":7}', "_OTHER", 'ERROR: {"code":7}'),
    (says({"error": None, "answer": "yes"}), True, None, None, "answer: yes..."),
    (says({}, 500), False, "HTTP 500 Said", "500", "ERROR: HTTP 500 Said"),
    (says({"error": "full"}, 429), False, "full", "429", "ERROR: full"),
    (says(b"<html>", 503, "text/html"), False, "HTTP 503 Said", "503", "ERROR: HTTP 503 Said"),
    (says(b"hello there", 200, "text/plain"), True, None, None, "hello there"),
    (says(b"\x89PNG" + b"x" * 100, 200, "image/png"), True, None, None, "image/png, 104 bytes"),
    (says(b"", 302), True, None, None, "no content"),
    (says(b"{broken", 200), True, None, None, "{broken"),
    (says(gzip.compress(b'{"rows": [1]}'), 200, more="Content-Encoding: gzip\r\n"), True, None, None, "1 rows"),
    (says(b"??", 200, more="Content-Encoding: br\r\n"), True, None, None, "application/json, 2 bytes"),
    (says(b'{"error": "' + b"e" * 300_000 + b'"}'), False, None, "_OTHER", ""),
    (says(b'{"rows": "' + b"e" * 300_000 + b'"}'), True, None, None, '{"rows": "' + "e" * 90),
    (says(b'data: {"a": 1}\n\ndata: {"b": 2}\n\n', 200, "text/event-stream"), True, None, None, '{"a":1}'),
    (says(b'data: {"error": "late"}\n\n', 200, "text/event-stream"), False, "late", "_OTHER", "ERROR: late"),
    (says(b'data: {"type": "error", "message": "of a log"}\n\n', 200, "text/event-stream"), True, None, None, ""),
]


async def test_status_and_error_decide(tmp_path: Path) -> None:
    """A status from 400 on is a failure, and so is an `error` in the body; the rest is summed up by what it is."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        for reply, success, error, error_type, summary in _OUTCOMES:
            op, _ = await op_of(running, gateway, request("POST", "/x", JSON, b"{}"), reply)
            assert (op.success, op.error_type) == (success, error_type), reply[:100]
            assert error is None or op.error == error
            assert not summary or op.output_summary == summary


async def test_json_rpc_is_named_by_method_and_tool(tmp_path: Path) -> None:
    """MCP: endpoint, tool, arguments as features; `isError` and JSON-RPC errors are failures, streamed or not."""

    def call(method: str, params: dict[str, Any]) -> bytes:
        body = json.dumps({"jsonrpc": "2.0", "id": 4, "method": method, "params": params}).encode()
        return request("POST", "/mcp", [*JSON, ("Mcp-Session-Id", "s-1")], body)

    search = call("tools/call", {"name": "search", "arguments": {"q": "welder", "limit": 3}})
    good = {"jsonrpc": "2.0", "id": 4, "result": {"content": [{"type": "text", "text": "3 found"}]}}
    bad = {"jsonrpc": "2.0", "id": 4, "result": {"isError": True, "content": [{"type": "text", "text": "no index"}]}}
    wrong = {"jsonrpc": "2.0", "id": 4, "error": {"code": -32602, "message": "no such tool"}}
    notice = b'event: message\ndata: {"jsonrpc": "2.0", "method": "notifications/progress"}\n\n'
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        op, _ = await op_of(running, gateway, search, says(good))
        assert (op.endpoint, op.success, op.output_summary) == ("/mcp tools/call search", True, "3 found")
        assert op.features == {"q": "welder", "limit": 3}
        assert op.extra is not None
        assert (op.extra["gen_ai.tool.name"], op.extra["mcp.session.id"]) == ("search", "s-1")
        op, _ = await op_of(running, gateway, search, says(bad))
        assert (op.success, op.error, op.error_type) == (False, "no index", "tool_error")
        op, _ = await op_of(running, gateway, search, says(wrong))
        assert (op.success, op.error, op.error_type) == (False, "no such tool", "-32602")
        stream = notice + b"event: message\ndata: " + json.dumps(bad).encode() + b"\n\n"
        op, _ = await op_of(running, gateway, search, says(stream, 200, "text/event-stream"))
        assert (op.success, op.error) == (False, "no index")
        op, _ = await op_of(running, gateway, call("tools/list", {}), says({"jsonrpc": "2.0", "id": 4, "result": {}}))
        assert (op.endpoint, op.success) == ("/mcp tools/list", True)


async def test_a_subscription_that_the_agent_ends_is_no_failure(tmp_path: Path) -> None:
    """A stream of events asked for with GET has no other end."""

    async def events(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await asyncio.Event().wait()
        return False

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = events
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(request("GET", "/events"))
            await reader.readuntil(b"data: 1\n\n")
        await settled(running, 1)
        assert running.ring.ops()[0].success


@pytest.mark.parametrize(("flags", "exported"), [("01", "01"), ("00", "00"), ("03", "03")])
async def test_the_agents_trace_goes_on(tmp_path: Path, flags: str, exported: str) -> None:
    """Its context is the parent; flags, state and baggage go on as they came; unsampled calls are journalled too."""
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    context = [("traceparent", f"00-{trace_id}-{span_id}-{flags}"), ("tracestate", "a=1"), ("TraceState", "b=2")]
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        sent = request("GET", "/x", [*context, ("baggage", "tenant=a%20b;p=1")])
        op, got = await op_of(running, gateway, sent, says({}))
        assert (op.trace_id, op.parent_span_id) == (trace_id, span_id)
        asked = gateway.asked[0]
        assert asked.header("traceparent") == f"00-{trace_id}-{op.span_id}-{exported}"
        assert [value for name, value in asked.headers if name.lower() == "tracestate"] == ["a=1", "b=2"]
        assert asked.header("baggage") == "tenant=a%20b;p=1"
        assert got.header("x-observer-trace-id") == trace_id
        assert len(journal(tmp_path)) == 1


@pytest.mark.parametrize(
    "context",
    [
        [("traceparent", "00-" + "0" * 32 + "-b7ad6b7169203331-01"), ("tracestate", "a=1")],
        [("traceparent", "nonsense"), ("tracestate", "a=1")],
        [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")] * 2,
        [("tracestate", "a=1")],
    ],
)
async def test_a_broken_context_begins_a_new_trace(tmp_path: Path, context: Pairs) -> None:
    """What is not valid is not handed on, and its `tracestate` neither. Source: W3C Trace Context, 3.2.3 and 3.3.1."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        op, _ = await op_of(running, gateway, request("GET", "/x", context), says({}))
        assert op.parent_span_id is None
        asked = gateway.asked[0]
        assert [v for n, v in asked.headers if n.lower() == "traceparent"] == [f"00-{op.trace_id}-{op.span_id}-01"]
        assert asked.header("tracestate") is None


async def test_one_trace_from_agent_to_gateway(tmp_path: Path) -> None:
    """An agent and a gateway with SDKs of their own: agent, proxy and gateway spans are parent and child."""
    agents, gateways = KeptSpans(), KeptSpans()

    async def traced(asked: Message, writer: asyncio.StreamWriter) -> bool:
        with gateways.tracer.start_as_current_span("serve", context=extract(dict(asked.headers)), kind=SpanKind.SERVER):
            writer.write(says({}))
        return True

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = traced
        with agents.tracer.start_as_current_span("think"):
            carrier: dict[str, str] = {}
            inject(carrier)
            await exchange(proxy_port(running), request("GET", "/x", list(carrier.items())))
        await settled(running, 1)
        (op,), (think,), (serve,) = running.ring.ops(), agents.named("think"), gateways.named("serve")
    assert think.context is not None
    assert serve.context is not None
    assert serve.parent is not None
    assert op.trace_id == f"{think.context.trace_id:032x}" == f"{serve.context.trace_id:032x}"
    assert op.parent_span_id == f"{think.context.span_id:016x}"
    assert op.span_id == f"{serve.parent.span_id:016x}"


class BrokenSpans:
    """A recorder of calls with a bug."""

    def begin(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug of ours")

    def end(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("what was not begun does not end")


async def alone(gateway: RawGateway, spans: CallSpans, tasks: asyncio.TaskGroup) -> GatewayProxy:
    """A proxy without the rest of the observer."""
    proxy = GatewayProxy(
        gateway.url,
        spans,
        Normalizer(Redactor()),
        SystemClock(),
        host="127.0.0.1",
        port=0,
        limits=ProxyLimits(30, 30, 30, 30),
        connect_timeout_s=5,
        grace_s=4,
    )
    await proxy.start(tasks)
    return proxy


async def test_the_span_is_a_client_span_by_the_conventions() -> None:
    """Name, kind, standard attributes, status; the last byte ends it."""
    kept = KeptSpans()
    async with raw_gateway() as gateway, asyncio.TaskGroup() as tasks:
        proxy = await alone(gateway, OpRecorder(kept.provider), tasks)
        gateway.answering = answer(says({"error": "closed"}, 409))
        await exchange(proxy.port, request("PUT", "/orders/4711", JSON, b"{}"))
        await proxy.stop()
    (span,) = kept.exporter.get_finished_spans()
    attributes: dict[str, Any] = dict(span.attributes or {})
    assert (span.name, span.kind) == ("/orders/{id}", SpanKind.CLIENT)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "closed")
    assert attributes["http.request.method"] == "PUT"
    assert attributes["url.full"] == f"{gateway.url}/orders/4711"
    assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", gateway.port)
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (409, "409")


async def test_a_bug_of_ours_costs_the_op_not_the_call() -> None:
    """The span cannot be begun: the call goes through, its context untouched, and is counted as lost."""
    async with raw_gateway() as gateway, asyncio.TaskGroup() as tasks:
        proxy = await alone(gateway, BrokenSpans(), tasks)
        got = await exchange(proxy.port, request("GET", "/x", [("traceparent", "as it came")]))
        await proxy.stop()
        assert (got.body, got.header("x-observer-trace-id")) == (b"{}", None)
        assert gateway.asked[0].header("traceparent") == "as it came"
        assert proxy.recorder.lost == 1


async def test_a_bug_in_reading_costs_the_details(tmp_path: Path) -> None:
    """The op is there all the same, with what needs no reading; the fault is counted."""

    class Unreadable:
        def read(self, _call: Any) -> Any:
            raise RuntimeError("a bug of ours")

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        assert running.proxy is not None
        running.proxy.recorder._facts = Unreadable()  # type: ignore[assignment]  # the bug itself
        op, got = await op_of(running, gateway, request("GET", "/x/1"), says({"error": "x"}))
        assert (op.endpoint, op.success, got.body) == ("/x/{id}", True, b'{"error": "x"}')
        assert (running.proxy.recorder.unread, running.proxy.recorder.lost) == (1, 0)


@pytest.mark.parametrize("trouble", ["full", "stalled"])
async def test_a_full_or_stalled_disk_is_not_the_agents_trouble(tmp_path: Path, trouble: str) -> None:
    """The answers are the same while the journal cannot be written; what could not be kept is counted."""
    file = FaultyFile.fresh()
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, open_file=file) as running:
        if trouble == "full":
            file.failure = OSError(errno.ENOSPC, "no space left on device")
        else:
            file.open_gate.clear()
        for _ in range(50):
            assert (await exchange(proxy_port(running), request("POST", "/x", JSON, b"{}"))).body == b"{}"
        file.open_gate.set()
        assert running.proxy is not None
        assert running.proxy.recorder.calls >= 49


async def test_bodies_are_kept_within_bounds(tmp_path: Path) -> None:
    """Many large calls at once: beyond the budget nothing is kept of them, and they go through whole."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        assert running.proxy is not None
        running.proxy.recorder.budget._most = 1000
        body = b'{"a": "' + b"x" * 100_000 + b'"}'
        op, got = await op_of(
            running, gateway, request("POST", "/x", JSON, body), says(b"y" * 100_000, 200, "text/plain")
        )
        assert (gateway.asked[0].body, len(got.body)) == (body, 100_000)
        assert (op.success, op.features) == (True, None)
        assert (running.proxy.recorder.budget.refused, running.proxy.recorder.budget.used) == (2, 0)


async def test_sampled_calls_are_exported_with_all_they_say(tmp_path: Path) -> None:
    """Over OTLP: kind, standard and `gen_ai.*` attributes; an unsampled call is in the journal alone."""
    reply = {"model": "m-1", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
    asked = request("POST", "/v1/chat/completions", JSON, json.dumps({"model": "m", "messages": []}).encode())
    unsampled = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")]
    async with raw_gateway() as gateway, otlp_receiver() as receiver:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint}
        async with proxied(tmp_path, gateway.url, **env) as running:
            await op_of(running, gateway, request("GET", "/quiet", unsampled), says({}))
            op, _ = await op_of(running, gateway, asked, says(reply))
            await receiver.wait_for(1)
    (span,) = receiver.spans
    said = attributes_dict(span.attributes)
    assert (span.name, span.kind, span.trace_id.hex()) == ("/v1/chat/completions", span.SPAN_KIND_CLIENT, op.trace_id)
    assert (said["gen_ai.request.model"], said["gen_ai.response.model"]) == ("m", "m-1")
    assert list(said["gen_ai.response.finish_reasons"]) == ["stop"]
    assert said["url.full"] == f"{gateway.url}/v1/chat/completions"
    assert said["observer.op.extra.gen_ai.request.model"] == "m"
    assert len(journal(tmp_path)) == 2
