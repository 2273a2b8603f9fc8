"""What Langfuse clients send here reaches Langfuse: all of it, whichever side is away for a while."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from sidecar.export.langfuse_relay import LangfuseRelay
from tests.langfuse_batches import SCORES, event, post, taken, whole
from tests.langfuse_server import FORWARD, KEYS, LangfuseServer, Store, langfuse_server
from tests.observers import client, observer, raw
from tests.otlp_receiver import otlp_receiver
from tests.otlp_requests import TRACE, a_request, a_span, flat, fresh_span_id
from tests.processes import UNMEASURED, observer_life

TRACES = "/api/public/otel/v1/traces"
PROTOBUF = {"content-type": "application/x-protobuf", "x-langfuse-ingestion-version": "4"}
PROTOBUF["x-langfuse-public-key"] = "pk"


def observed_span(name: str = "find_workers") -> Any:
    """A span of Langfuse's SDK."""
    span = a_span(name, span_id=fresh_span_id(), trace_id=TRACE)
    span.attributes.add(key="langfuse.observation.type").value.string_value = "tool"
    return span


async def send_spans(http: httpx.AsyncClient, *spans: Any) -> None:
    answer = await http.post(TRACES, content=a_request(*spans).SerializeToString(), headers=PROTOBUF)
    assert answer.status_code == 200


def port_of(server: LangfuseServer) -> int:
    return urlsplit(server.url).port or 0


async def test_all_doors_lead_on_as_it_came(tmp_path: Path) -> None:
    """Bodies and paths as they were, the SDK's headers but no key of the client's; the forward's own keys instead."""
    spans = [observed_span(), a_span("no operation")]
    batch = [*whole("job", name="plan"), {"id": "broken", "type": "span-create"}]
    async with langfuse_server() as server:
        bodies: dict[str, bytes] = {}
        server.seen = bodies.__setitem__
        async with observer(tmp_path, LANGFUSE_FORWARD_URL=server.url, **FORWARD) as running, client(running) as http:
            await send_spans(http, *spans)
            await post(http, *batch)
            await http.post(SCORES, json=[{"id": "s", "name": "ok", "value": 1, "sessionId": "x"}])
            await server.until(lambda: len(bodies) == 3)
            stats = (await http.get("/stats")).json()["langfuse"]["forward"]
    assert flat(bodies[TRACES]) == flat(a_request(*spans))
    assert server.store.events == {each["id"]: 1 for each in batch[:2]}
    assert server.store.scores == {"s": 1}
    headers = {path: headers for _, path, _, headers in server.asked}
    assert headers[TRACES]["x-langfuse-ingestion-version"] == "4"
    assert all("x-langfuse-public-key" not in each for each in headers.values())
    assert (stats["accepted"], stats["evicted"]) == (6, 0)


async def test_spans_that_came_by_another_door_first_are_sent_on(tmp_path: Path) -> None:
    """An agent with two exporters sends both doors the same bytes: learnt from once, and sent to Langfuse too."""
    request = a_request(observed_span()).SerializeToString()
    async with (
        langfuse_server() as server,
        observer(tmp_path, LANGFUSE_FORWARD_URL=server.url, **FORWARD) as running,
        client(running) as http,
    ):
        for path in ("/v1/traces", TRACES, TRACES):
            assert (await http.post(path, content=request, headers=PROTOBUF)).status_code == 200
        await server.until(lambda: len(server.store.spans) == 1)
        stats = (await http.get("/stats")).json()
        assert (stats["total"], stats["langfuse"]["forward"]["accepted"], running.otlp.intake.repeats) == (1, 1, 1)


async def test_nothing_is_lost_while_langfuse_is_away(tmp_path: Path) -> None:
    """Down at first, down again in between, on the same address: each id arrives, here all is an op once."""
    store = Store()
    async with langfuse_server(store) as first:
        port = port_of(first)
    env = {"LANGFUSE_FORWARD_URL": f"http://127.0.0.1:{port}", **FORWARD}
    sent: list[str] = []
    async with observer(tmp_path, **env) as running, client(running) as http:

        async def send(count: int) -> None:
            for _ in range(count):
                span = observed_span()
                sent.append(span.span_id.hex())
                await send_spans(http, span)

        await send(5)
        async with langfuse_server(store, port) as second:
            await second.until(lambda: len(store.spans) == 5)
        await send(5)
        async with langfuse_server(store, port) as third:
            await send(5)
            await third.until(lambda: len(store.spans) == 15)
        assert (await http.get("/stats")).json()["by_source"] == {"langfuse": 15}
    assert set(store.spans) == set(sent)


async def test_nothing_is_lost_when_the_observer_is_killed(tmp_path: Path) -> None:
    """What was acknowledged before the kill is sent by the next life, all of it at least once."""
    store = Store()
    async with langfuse_server(store) as server:
        server.refuses = lambda method, _path: (503, {"message": "busy"}, {}) if method == "POST" else None
        env = {"LANGFUSE_FORWARD_URL": server.url, **FORWARD}
        async with (
            observer_life(tmp_path, **env, **UNMEASURED) as first,
            httpx.AsyncClient(base_url=first.url, timeout=30) as http,
        ):
            for number in range(10):
                await taken(http, *whole(f"job-{number}", name="plan"))
            await asyncio.to_thread(first.kill)
        server.refuses = lambda _method, _path: None
        async with observer_life(tmp_path, **env) as second:
            await server.until(lambda: len(store.events) == 20)
            await asyncio.to_thread(second.stop)


async def test_answers_are_kept_apart(tmp_path: Path) -> None:
    """Later, unknown keys and what Langfuse could not store come again; what it refuses for good is counted."""
    once: Counter[str] = Counter()

    def refuses(method: str, path: str) -> tuple[int, Any, dict[str, str]] | None:
        once[path] += method == "POST"
        plan: dict[str, list[tuple[int, Any, dict[str, str]]]] = {
            "/api/public/scores": [
                (401, {"message": "Invalid credentials"}, {}),
                (429, {"message": "slow down"}, {"retry-after": "0"}),
            ],
            "/api/public/ingestion": [
                (207, {"successes": [], "errors": [{"id": "x", "status": 500, "message": "later"}]}, {}),
                (207, {"successes": [], "errors": [{"id": "x", "status": 400, "message": "never"}]}, {}),
                (422, {"message": "what is this"}, {}),
            ],
        }
        answers = plan.get(path, [])
        return answers[once[path] - 1] if once[path] <= len(answers) else None

    async with langfuse_server() as server:
        server.refuses = refuses
        async with observer(tmp_path, LANGFUSE_FORWARD_URL=server.url, **FORWARD) as running, client(running) as http:
            await taken(http, event("trace-create", id="a"))
            await server.until(lambda: once["/api/public/ingestion"] == 2)
            await taken(http, event("trace-create", id="b"))
            await server.until(lambda: once["/api/public/ingestion"] == 3)
            await http.post(SCORES, json=[{"id": "s", "name": "ok", "value": 1, "sessionId": "x"}])
            await server.until(lambda: "s" in server.store.scores)
            forward = running.langfuse.forward
            assert forward is not None
            assert (forward.lane.failed["rejected"], forward.lane.failed["refused"]) == (1, 1)
            losses = (await http.get("/stats")).json()["lost"]
            assert losses["langfuse_not_forwarded"] == 2
    assert once["/api/public/scores"] == 3


async def test_a_silent_langfuse_holds_nobody_up(tmp_path: Path) -> None:
    """The doors answer, and the observer stops in its time."""
    async with langfuse_server() as server:
        server.silent = True
        env = {"LANGFUSE_FORWARD_URL": server.url, "OBSERVER_GRACE": "2", **FORWARD}
        async with observer(tmp_path, **env) as running, client(running) as http:
            for number in range(3):
                await taken(http, *whole(f"job-{number}", name="plan"))
            assert (await http.get("/stats")).json()["langfuse"]["forward"]["waiting_bytes"] > 0


@pytest.mark.parametrize("ratio", ["1", "0"])
async def test_spans_go_to_the_collector_too(tmp_path: Path, ratio: str) -> None:
    """A trace is whole there, as the settings wish; Langfuse gets everything whatever they say."""
    spans = [observed_span() for _ in range(3)]
    async with otlp_receiver() as collector, langfuse_server() as server:
        env = {
            "LANGFUSE_FORWARD_URL": server.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_endpoint,
            "OTEL_METRICS_EXPORTER": "none",
            "OBSERVER_EXPORT_SUCCESS_RATIO": ratio,
            **FORWARD,
        }
        async with observer(tmp_path, **env) as running, client(running) as http:
            await send_spans(http, *spans)
            await server.until(lambda: len(server.store.spans) == 3)
        exported = {span.span_id for span in collector.spans}
    assert exported == ({span.span_id for span in spans} if ratio == "1" else set())


async def test_what_sdks_ask_is_asked_of_langfuse(tmp_path: Path) -> None:
    """Prompts and projects are its own, by the forward's keys; when it is gone the answer says so."""
    async with AsyncExitStack() as while_it_is_there:
        server = await while_it_is_there.enter_async_context(langfuse_server())
        env = {"LANGFUSE_FORWARD_URL": server.url, **FORWARD}
        async with observer(tmp_path, **env) as running, client(running) as http:
            prompt = await http.get("/api/public/v2/prompts/team%2Fgreeting", params={"label": "production"})
            assert (prompt.status_code, prompt.json()["version"]) == (200, 3)
            assert server.asked[-1][1:3] == ("/api/public/v2/prompts/team%2Fgreeting", {"label": ["production"]})
            assert (await http.get("/api/public/projects", auth=("pk", "sk"))).json()["data"][0]["id"] == "theirs"
            assert (await http.get("/api/public/traces")).status_code == 404
            await while_it_is_there.aclose()
            gone = await http.get("/api/public/v2/prompts/greeting")
            assert (gone.status_code, "Langfuse does not answer" in gone.json()["error"]) == (502, True)


async def test_an_answer_that_never_ends_is_given_up() -> None:
    """However steadily it drips: the agent and its connection are free again."""
    given_up = asyncio.Event()

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not given_up.is_set():
            writer.write(b" ")
            with suppress(TimeoutError):
                await asyncio.wait_for(given_up.wait(), 0.02)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    relay = LangfuseRelay(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", *KEYS, timeout_s=0.3)
    async with server:
        try:
            said = await asyncio.wait_for(relay.ask("GET", "/api/public/projects", "", b""), 15)
        finally:
            given_up.set()
            await relay.close()
    assert (said.status, "Timeout" in said.error) == (502, True)


@pytest.mark.parametrize(
    "way",
    ["../../traces", "..%2F..%2Ftraces", "%2e%2e/%2E./traces", "..%252f..%252ftraces", "a%5C..%5C..%5Ctraces", "./x"],
)
async def test_no_path_leads_elsewhere_with_our_keys(tmp_path: Path, way: str) -> None:
    """Whoever may ask for a prompt may not read the rest of the project by `..`, however it is written."""
    async with langfuse_server() as server:
        env = {"LANGFUSE_FORWARD_URL": server.url, **FORWARD}
        async with observer(tmp_path, **env) as running:
            head = f"GET /api/public/v2/prompts/{way} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            said = await raw(running.port, head.encode())  # an HTTP client would tidy the path up
    assert said.startswith(b"HTTP/1.1 422")
    assert server.asked == []


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("application/json; charset=utf-8", "application/json; charset=utf-8"),
        ("text/html", "application/octet-stream"),
        ("text/plain; x=caf\xe9", "application/octet-stream"),
    ],
)
async def test_content_types_do_no_harm(tmp_path: Path, theirs: str, ours: str) -> None:
    """An agent's that cannot be sent is left out; Langfuse's answer is data here, never a page of ours."""
    async with langfuse_server() as server:
        server.refuses = lambda _method, _path: (200, {"uploadUrl": None}, {"content-type": theirs})
        async with observer(tmp_path, **{"LANGFUSE_FORWARD_URL": server.url, **FORWARD}) as running:
            lines = [b"POST /api/public/media HTTP/1.1", b"Host: localhost", b"Connection: close"]
            lines += [b"Content-Length: 2", b"Content-Type: caf\xe9"]
            said = await raw(running.port, b"\r\n".join([*lines, b"", b"{}"]))
    head, _, body = said.partition(b"\r\n\r\n")
    assert (head.startswith(b"HTTP/1.1 200"), body) == (True, b'{"uploadUrl": null}')
    assert f"content-type: {ours}".encode() in head.lower()
    assert b"x-content-type-options: nosniff" in head.lower()
    assert "content-type" not in server.asked[0][3]


@pytest.mark.parametrize("value", [b"caf\xe9", b"v4 \t"])
async def test_a_header_that_cannot_be_sent_holds_nothing_up(tmp_path: Path, value: bytes) -> None:
    """The body goes on without it, or with it made fit; so does what comes after."""
    async with langfuse_server() as server:
        env = {"LANGFUSE_FORWARD_URL": server.url, **FORWARD}
        async with observer(tmp_path, **env) as running:
            for number in range(2):
                body = b'{"id":"s-%d","name":"ok","value":1,"sessionId":"x"}' % number
                lines = [f"POST {SCORES} HTTP/1.1".encode(), b"Host: localhost", b"Connection: close"]
                lines += [b"Content-Length: %d" % len(body), *([b"X-Langfuse-Sdk-Name: " + value] * (not number))]
                assert (await raw(running.port, b"\r\n".join([*lines, b"", body]))).startswith(b"HTTP/1.1 200")
            await server.until(lambda: len(server.store.scores) == 2)
    told = [headers.get("x-langfuse-sdk-name") for _, path, _, headers in server.asked if path == SCORES]
    assert told == ["v4" if value.isascii() else None, None]
