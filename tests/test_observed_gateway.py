"""`observed()`: each gateway call is a span and an op, and no fault of the gateway's is raised."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, use_span

from sidecar.clock import SystemClock
from sidecar.gateway.features import request_features
from sidecar.gateway.observed_gateway import ObservedGateway
from sidecar.gateway.summary import summarize
from sidecar.normalize import Normalizer
from sidecar.pipeline.observer import Observer
from sidecar.redaction import Redactor
from sidecar.spans.recorder import OpRecorder
from tests.observers import DEAD, Answer, StandIn, journal, observer, says, settled, stand_in, without_crc
from tests.strategies import values

NORMALIZER = Normalizer(Redactor())


@pytest.fixture
async def gateway() -> AsyncIterator[StandIn]:
    async with stand_in() as stub:
        yield stub


@pytest.fixture
async def running(tmp_path: Path, gateway: StandIn) -> AsyncIterator[Observer]:
    """An observer beside `gateway`."""
    async with observer(tmp_path, GATEWAY_URL=gateway.url) as it:
        yield it


async def written(running: Observer, tmp_path: Path, count: int) -> list[dict[str, Any]]:
    """The journal's ops once there are *count* in the ring: calls do not wait for it."""
    await settled(running, count)
    return [without_crc(line) for line in journal(tmp_path)]


async def test_a_good_call_is_a_success(running: Observer, gateway: StandIn, tmp_path: Path) -> None:
    """The caller gets the answer and the op; the same op is in the journal."""
    gateway.answers["/search"] = says({"rows": [1, 2], "row_count": 2})
    data, op = await running.gateway.observed("/search", {"q": "welder"}, "search welders", task="t1", role="cook")
    assert data == {"rows": [1, 2], "row_count": 2}
    assert (op.endpoint, op.input_summary, op.success, op.output_summary) == (
        "/search",
        "search welders",
        True,
        "2 rows",
    )
    assert (op.source, op.task, op.role, op.error, op.features) == ("mcp", "t1", "cook", None, {"q": "welder"})
    assert op.duration_ms > 0
    (line,) = await written(running, tmp_path, 1)
    assert [op] == running.ring.ops()
    assert (line["op_id"], line["span_id"]) == (op.op_id, op.span_id)
    assert gateway.asked[0].headers["content-type"] == "application/json"
    assert gateway.posts("/search") == [{"q": "welder"}]


_ANSWERS: list[tuple[Answer, bool, str | None, str | None, Any]] = [
    (says({"error": "no shift"}), False, "no shift", "_OTHER", {"error": "no shift"}),
    (says({"error": {"code": 7}}), False, '{"code":7}', "_OTHER", {"error": {"code": 7}}),
    (says({"error": None, "a": 1}), True, None, None, {"error": None, "a": 1}),
    (says({"error": ""}), True, None, None, {"error": ""}),
    (says({}, 500), False, "HTTP 500 Said", "500", {}),
    (says({"error": "full"}, 429), False, "full", "429", {"error": "full"}),
    (says({"answer": 5}, 404), False, "HTTP 404 Said", "404", {"answer": 5}),
    (Answer(302, b"", ((b"location", b"/elsewhere"),)), False, "HTTP 302 Said", "302", {"error": "HTTP 302 Said"}),
    (Answer(204, b""), True, None, None, {}),
    (Answer(200, b""), True, None, None, {}),
    (Answer(503, b"<html>"), False, "HTTP 503 Said", "503", {"error": "HTTP 503 Said"}),
    (says(None), True, None, None, None),
    (says([1, 2]), True, None, None, [1, 2]),
    (says({"answer": 5}), True, None, None, {"answer": 5}),
]


async def test_status_and_error_both_decide(running: Observer, gateway: StandIn) -> None:
    """A status other than 2xx is a failure whatever the body says; so is `error` in the body of a 200."""
    for answer, success, error, error_type, said in _ANSWERS:
        gateway.answers["/x"] = answer
        data, op = await running.gateway.observed("/x", {}, "")
        assert (op.success, op.error, op.error_type, data) == (success, error, error_type, said), answer
        assert success or op.output_summary == f"ERROR: {error}"


async def test_an_answer_that_is_no_json_is_a_failure(running: Observer, gateway: StandIn) -> None:
    """Text, broken JSON or bytes: the caller gets an error that says so."""
    for content in (b"ok", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"9" * 5000):
        gateway.answers["/x"] = Answer(200, content)
        data, op = await running.gateway.observed("/x", {}, "")
        assert (op.success, data["error"]) == (False, op.error)
        assert (op.error or "").startswith("the answer is not JSON: ")


async def test_a_gateway_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    """Nothing is raised; the error's class is its type."""
    async with observer(tmp_path, GATEWAY_URL=DEAD) as running:
        data, op = await running.gateway.observed("/x", {}, "try")
        assert (op.success, op.error_type, data) == (False, "ConnectError", {"error": op.error})
        assert (await written(running, tmp_path, 1))[0]["error"] == op.error


async def test_a_gateway_that_hangs_is_a_failure(gateway: StandIn, tmp_path: Path) -> None:
    """The time-out bounds the whole call."""
    gateway.silent.add("/x")
    async with observer(tmp_path, GATEWAY_URL=gateway.url, OBSERVER_GATEWAY_TIMEOUT="0.5") as running:
        _, op = await running.gateway.observed("/x", {}, "")
    assert (op.success, op.error_type, op.error) == (False, "TimeoutError", "no answer within 0.5 s")


async def test_a_gateway_that_hangs_up_is_a_failure(running: Observer, gateway: StandIn) -> None:
    """The request came, and no answer to it."""
    gateway.silent.add("/x")
    gateway.release()
    _, op = await running.gateway.observed("/x", {}, "")
    assert (op.success, op.error_type) == (False, "RemoteProtocolError")


async def test_a_dripping_answer_is_cut_off() -> None:
    """A byte now and then begins no time-out anew."""
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        gone.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with httpx.AsyncClient(trust_env=False) as http:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        calls, _ = wrapped(address, http, timeout_s=0.3)
        _, op = await calls.observed("/x", {}, "")
    assert op.error_type == "TimeoutError"
    await gone.wait()
    server.close()
    await server.wait_closed()


async def test_a_huge_error_is_cut_in_the_op_only(running: Observer, gateway: StandIn, tmp_path: Path) -> None:
    """The caller gets all of it; the journal holds its beginning."""
    gateway.answers["/x"] = says({"error": "e" * 5_000_000})
    data, op = await running.gateway.observed("/x", {}, "")
    assert (len(data["error"]), len(op.error or "")) == (5_000_000, 8192)
    assert len(await written(running, tmp_path, 1)) == 1


async def test_the_body_must_be_json_and_the_fields_an_ops(running: Observer, gateway: StandIn) -> None:
    """The caller's own mistakes are raised before anything is sent."""
    for body in ({1, 2}, float("nan"), object()):
        with pytest.raises((TypeError, ValueError)):
            await running.gateway.observed("/x", body, "")
    for fields in ({"colour": 1}, {"role": 5}, {"timestamp": "now"}, {"op_id": "mine"}, {"features": [1]}):
        with pytest.raises(TypeError):
            await running.gateway.observed("/x", {}, "", **fields)
    with pytest.raises(TypeError):
        await running.gateway.observed("/x", {}, None)  # type: ignore[arg-type]  # the mistake itself
    assert (gateway.asked, len(running.ring)) == ([], 0)


async def test_an_endpoint_cannot_leave_the_gateway(running: Observer, gateway: StandIn) -> None:
    """What would change the address is a path of the gateway's; what is no path fails."""
    await running.gateway.observed("@elsewhere/x", {}, "")
    assert gateway.asked[-1].path == "/@elsewhere/x"
    for odd in ("/a\ud800", "/a\x00b", "/x\r\nHost: y"):
        _, op = await running.gateway.observed(odd, {}, "")
        assert "\ud800" not in op.endpoint


def wrapped(url: str, http: httpx.AsyncClient, timeout_s: float = 10.0) -> tuple[ObservedGateway, InMemorySpanExporter]:
    """The wrapper alone, and the spans it ends."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(kept))
    normalizer = Normalizer(Redactor())
    return ObservedGateway(url, http, OpRecorder(provider), normalizer, SystemClock(), timeout_s=timeout_s), kept


async def one_span(gateway: StandIn, answer: Answer, endpoint: str = "/fill") -> ReadableSpan:
    gateway.answers[endpoint.partition("?")[0]] = answer
    async with httpx.AsyncClient(trust_env=False) as http:
        calls, kept = wrapped(gateway.url, http)
        await calls.observed(endpoint, {"state": "NV"}, "fill")
    (span,) = kept.get_finished_spans()
    return span


async def test_the_span_is_a_client_span_by_the_conventions(gateway: StandIn) -> None:
    """Name, kind, standard attributes beside ours, status unset on success."""
    span = await one_span(gateway, says({}))
    port = int(gateway.url.rpartition(":")[2])
    attributes: dict[str, Any] = dict(span.attributes or {})
    assert (span.name, span.kind, span.status.status_code) == ("/fill", SpanKind.CLIENT, StatusCode.UNSET)
    assert {name: attributes[name] for name in attributes if not name.startswith("observer.")} == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{gateway.url}/fill",
    }
    assert attributes["observer.op.features.state"] == "NV"
    assert (span.end_time or 0) - (span.start_time or 0) == pytest.approx(
        attributes["observer.op.duration_ms"] * 1e6, abs=1e3
    )


async def test_a_failed_call_has_error_type_and_status(gateway: StandIn) -> None:
    """A bounded code in `error.type`; the message is the status's description."""
    span = await one_span(gateway, says({"error": "closed"}, 409))
    assert (span.attributes or {})["error.type"] == "409"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "closed")


async def test_credentials_in_the_address_are_masked(gateway: StandIn) -> None:
    """`url.full` and the name are scrubbed."""
    gateway.answers["/fill?api_key=hunter2hunter2"] = says({})
    span = await one_span(gateway, says({}), "/fill?api_key=hunter2hunter2")
    assert "hunter2" not in str(span.attributes) + span.name


async def test_w3c_context_is_sent_on(running: Observer, gateway: StandIn) -> None:
    """Without a span of the agent's the call is a root; its own ids go out."""
    _, op = await running.gateway.observed("/x", {}, "")
    assert op.parent_span_id is None
    version, trace_id, span_id, flags = gateway.asked[0].headers["traceparent"].split("-")
    assert (version, trace_id, span_id, int(flags, 16) & 1) == ("00", op.trace_id, op.span_id, 1)


@pytest.mark.parametrize("flags", ["01", "00", "03"])
async def test_the_agents_own_span_is_the_parent(
    running: Observer, gateway: StandIn, tmp_path: Path, flags: str
) -> None:
    """Sampled or not: its flags are handed on as they were, and the op is journalled all the same."""
    agents = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(int(flags, 16)))
    with use_span(NonRecordingSpan(agents)):
        token = context.attach(baggage.set_baggage("tenant", "a b"))
        _, op = await running.gateway.observed("/x", {}, "")
        context.detach(token)
    assert (op.trace_id, op.parent_span_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    sent = gateway.asked[0].headers
    assert sent["traceparent"] == f"00-{op.trace_id}-{op.span_id}-{flags}"
    assert sent["baggage"] == "tenant=a+b"
    assert (await written(running, tmp_path, 1))[0]["op_id"] == op.op_id


async def test_a_cancelled_call_is_an_op(running: Observer, gateway: StandIn, tmp_path: Path) -> None:
    """The caller's cancellation goes through; what was seen of the call stays."""
    gateway.silent.add("/x")
    call = asyncio.create_task(running.gateway.observed("/x", {}, "slow"))
    await gateway.wait_for("/x")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (line,) = await written(running, tmp_path, 1)
    assert (line["success"], line["error_type"], line["error"]) == (False, "CancelledError", "cancelled by the caller")


async def test_concurrent_calls_are_told_apart(gateway: StandIn, tmp_path: Path) -> None:
    """Each has its own trace and op; the journal holds them all."""
    gateway.answers["/x"] = lambda asked: says({"answer": str(asked.json()["n"])})
    async with observer(tmp_path, GATEWAY_URL=gateway.url) as running:  # patient: the machine may be busy
        results = await asyncio.gather(*(running.gateway.observed("/x", {"n": n}, f"call {n}") for n in range(80)))
        assert [op.input_summary for _, op in results] == [f"call {n}" for n in range(80)]
        assert [data for data, _ in results] == [{"answer": str(n)} for n in range(80)]
        assert len({op.trace_id for _, op in results}) == 80
        assert {line["op_id"] for line in await written(running, tmp_path, 80)} == {op.op_id for _, op in results}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"sql_matches": 12, "vector_reranked": 3, "rows": [1]}, "hybrid: 12 sql → 3 results"),
        ({"sql_matches": 0, "vector_reranked": 0}, "hybrid: 0 sql → 0 results"),
        ({"rows": [1, 2, 3], "row_count": 2}, "2 rows"),
        ({"rows": [1, 2, 3]}, "3 rows"),
        ({"rows": [], "answer": "x"}, "0 rows"),
        ({"rows": None, "answer": "x" * 100}, "answer: " + "x" * 80 + "..."),
        ({"answer": ""}, '{"answer":""}'),
        ({"answer": 5}, "answer: 5..."),
        ({"sources": []}, "0 sources"),
        ({"sources": ["a", "b"]}, "2 sources"),
        ({"a": "x" * 200}, '{"a":"' + "x" * 94),
        ([1], "[1]"),
        (None, "null"),
        ({"answer": "😀" * 100}, "answer: " + "😀" * 80 + "..."),
    ],
)
def test_the_wordings_of_summaries_are_kept(data: Any, said: str) -> None:
    """Existing readers know them; no character is cut in half."""
    assert summarize(data, NORMALIZER.cut) == said


_named = st.dictionaries(
    st.sampled_from(["sql_matches", "vector_reranked", "rows", "row_count", "answer", "sources", "error"]), values
)


@given(st.one_of(values, _named))
def test_no_answer_makes_the_summary_raise(data: Any) -> None:
    """Whatever a gateway says, there is a line for it."""
    assert isinstance(summarize(data, NORMALIZER.cut), str)


def test_features_are_the_bodys_scalars() -> None:
    """Nested ones under dotted names; lists, nulls and what lies deeper are left out; all is bounded."""
    body = {"a": 1, "b": {"c": "x", "d": {"e": True, "f": {"g": 1}}}, "l": [1], "n": None, "t": "y" * 300}
    assert request_features(body, NORMALIZER.cut) == {"a": 1, "b.c": "x", "b.d.e": True, "t": "y" * 256}
    assert len(request_features({str(number): number for number in range(1000)}, NORMALIZER.cut)) == 64
    assert [request_features(body, NORMALIZER.cut) for body in ([1, 2], "x", None)] == [{}, {}, {}]


@given(values)
def test_no_body_makes_the_features_raise(body: Any) -> None:
    """Every JSON body has features, if only none."""
    assert all(
        isinstance(value, str | bool | int | float)
        for value in request_features(json.loads(json.dumps(body)), NORMALIZER.cut).values()
    )


async def test_a_secret_that_a_cut_goes_through_is_masked(running: Observer, gateway: StandIn, tmp_path: Path) -> None:
    """Half a secret has no shape by which it could be known later: texts are masked before they are cut."""
    secret = "postgres://admin:hunter2hunter2hunter2@db"
    gateway.answers["/answer"] = says({"answer": "x" * 50 + secret})
    gateway.answers["/json"] = says({"a": "x" * 60 + secret})
    gateway.answers["/error"] = says({"error": "x" * 8160 + secret})
    for endpoint in ("/answer", "/json", "/error"):
        await running.gateway.observed(endpoint, {"text": "x" * 225 + secret}, "call")
    for op in await written(running, tmp_path, 3):
        assert "hunter2" not in json.dumps(op)
