"""The reading doors: `/stats`, `/ops`, `/ops/stream`, `/metrics`, health on both ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import falcon.asgi
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.pipeline.observer import Observer
from sidecar.receivers.health_resource import ReadyzResource
from sidecar.receivers.http_app import create_app
from sidecar.receivers.http_receiver import HttpReceiver
from tests.observers import client, journal, observer, without_crc

_REFERENCE_STATS = {"total", "successes", "failures", "by_source", "recent_scenario_ops"}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Observer]:
    async with observer(tmp_path) as it:
        yield it


@pytest.fixture
async def door(running: Observer) -> AsyncIterator[httpx.AsyncClient]:
    async with client(running) as http:
        yield http


async def post(door: httpx.AsyncClient, *events: dict[str, Any]) -> None:
    """*events* in one batch; all of them are good."""
    answer = await door.post("/events", content=json.dumps(events).encode())
    assert answer.json()["accepted"] == len(events)


async def test_stats_are_those_that_callers_know_and_more(door: httpx.AsyncClient) -> None:
    """Counts over the ring, by source, and the last ten scenario ops without fields that are not known."""
    await post(
        door, *({"success": number % 3 > 0, "timestamp": f"2026-01-01T00:00:{number}Z"} for number in range(10, 22))
    )
    await post(
        door, {"source": "langfuse"}, {"staffer_id": "s1", "event_kind": "fill", "role": "cook", "success": True}
    )
    stats = (await door.get("/stats")).json()
    recent = stats["recent_scenario_ops"]
    assert stats.keys() > _REFERENCE_STATS
    assert (stats["total"], stats["successes"], stats["failures"]) == (14, 9, 5)
    assert stats["by_source"] == {"scenario": 13, "langfuse": 1}
    assert len(recent) == 10
    assert recent[0] == {"ts": "2026-01-01T00:00:13.000Z", "ok": True}
    assert {name: recent[-1][name] for name in ("ok", "staffer", "kind", "role")} == {
        "ok": True,
        "staffer": "s1",
        "kind": "fill",
        "role": "cook",
    }


async def test_ops_are_filtered(door: httpx.AsyncClient) -> None:
    """By exact fields, success and time, alone and together; newest first."""
    times = [f"2026-01-01T00:00:0{second}.000Z" for second in range(4)]
    await post(
        door, *({"role": role, "timestamp": at, "city": "a&b=c"} for role, at in zip("abab", times, strict=True))
    )
    await post(door, {"role": "a", "success": True, "timestamp": times[3], "task": ""})

    async def found(**query: str) -> list[str]:
        return [op["timestamp"] for op in (await door.get("/ops", params=query)).json()["ops"]]

    assert await found() == [times[3], times[3], times[2], times[1], times[0]]
    assert await found(role="b") == [times[3], times[1]]
    assert await found(role="a", success="true") == [times[3]]
    assert await found(success="0", since=times[1], until="2026-01-01T01:00:02+01:00") == [times[2], times[1]]
    assert await found(city="a&b=c", limit="1") == [times[3]]
    assert await found(task="") == [times[3]]
    assert await found(role="nobody") == []


async def test_ops_are_paged_without_gap_or_repetition(door: httpx.AsyncClient) -> None:
    """Also while new ones arrive between the pages."""
    await post(door, *({"count": number, "role": "ab"[number % 2]} for number in range(25)))
    seen: list[int] = []
    query = {"limit": "4", "role": "a"}
    while True:
        page = (await door.get("/ops", params=query)).json()
        seen += [op["count"] for op in page["ops"]]
        await post(door, {"role": "a", "count": 1000})
        if "next_cursor" not in page:
            break
        query["cursor"] = page["next_cursor"]
    assert seen == [*range(24, -1, -2)]


async def test_a_page_of_large_ops_ends_early(door: httpx.AsyncClient) -> None:
    """A page is bounded in bytes, whatever its limit; its cursor leads on, and nothing is left out."""
    await post(door, *({"role": str(number), "input_summary": "x" * 600_000} for number in range(5)))
    roles: list[list[str]] = []
    cursor: dict[str, str] = {}
    while not roles or cursor:
        page = (await door.get("/ops", params={"limit": "1000", **cursor})).json()
        roles.append([op["role"] for op in page["ops"]])
        cursor = {"cursor": page["next_cursor"]} if "next_cursor" in page else {}
    assert roles == [["4", "3"], ["2", "1"], ["0"]]


async def test_wrong_queries_are_refused(door: httpx.AsyncClient) -> None:
    """422 with an error that names what is wrong; 404 for a cursor whose op has left the ring."""
    for query in (
        *("success=maybe", "limit=0", "limit=1001", "limit=x", "since=yesterday", "colour=red"),
        *("role=a&role=b", "limit=", "limit=%C2%B2"),
    ):
        for path in ("/ops", "/ops/stream"):
            answer = await door.get(f"{path}?{query}")
            assert (answer.status_code, query.partition("=")[0] in answer.json()["error"]) == (422, True), query
    gone = await door.get("/ops?cursor=gone")
    assert (gone.status_code, "cursor 'gone'" in gone.json()["error"]) == (404, True)


async def test_ops_are_those_of_the_journal(door: httpx.AsyncClient, tmp_path: Path) -> None:
    """One op, one JSON, wherever it is read."""
    await post(door, {"features": {"a": 1}, "x": [1], "count": 2.5, "success": "1"}, {"error": "e\u00e9\u0000"})
    assert (await door.get("/ops")).json()["ops"] == [without_crc(line) for line in reversed(journal(tmp_path))]


async def events_of(answer: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The server-sent events of *answer*."""
    event: dict[str, str] = {}
    async for line in answer.aiter_lines():
        if not line and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, text = line.partition(":")
            event[name] = text.strip()


async def test_the_live_stream_gives_each_wanted_op_and_ends_at_shutdown(tmp_path: Path) -> None:
    """As events named `op` with the op's id; when the observer stops, the stream ends cleanly."""
    streamed: list[dict[str, Any]] = []
    started = asyncio.Event()
    enough = asyncio.Event()

    async def watch(http: httpx.AsyncClient) -> None:
        async with http.stream("GET", "/ops/stream", params={"role": "cook"}) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            started.set()
            async for event in events_of(answer):
                op = json.loads(event["data"])
                assert (event["event"], event["id"]) == ("op", op["op_id"])
                streamed.append(op)
                if len(streamed) == 3:
                    enough.set()

    async with observer(tmp_path) as running, client(running) as http:
        watching = asyncio.create_task(watch(http))
        await started.wait()
        async with client(running) as other:
            await post(other, *({"role": role, "count": n} for n, role in enumerate(["cook", "x", "cook", "cook"])))
        await enough.wait()
        wanted = [line for line in journal(tmp_path) if line["role"] == "cook"]
        assert streamed == [without_crc(line) for line in wanted]
        running.feed.close()  # what a stop does first
        await watching
        assert running.feed.watchers == 0


async def test_a_stop_ends_open_streams(tmp_path: Path) -> None:
    """A watcher does not hold up the shutdown, and sees the stream's end, not a broken connection."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        async with observer(tmp_path) as running:
            request = http.build_request("GET", f"http://127.0.0.1:{running.port}/ops/stream")
            answer = await http.send(request, stream=True)
        assert [event async for event in events_of(answer)] == []
        await answer.aclose()


async def test_a_slow_watcher_is_told_what_it_missed(running: Observer, door: httpx.AsyncClient) -> None:
    """Who does not read loses the oldest, and is told how many; nobody else waits for it."""
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(slow, ("127.0.0.1", running.port))
    await loop.sock_sendall(slow, b"GET /ops/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    reader, writer = await asyncio.open_connection(sock=slow, limit=2**26)
    await reader.readuntil(b"text/event-stream")
    sent = 0
    while running.feed.missed == 0:
        await post(door, *({"note": "x" * 4000} for _ in range(1000)))
        sent += 1000
    received = missed = 0
    while received + missed < sent:
        line = await asyncio.wait_for(reader.readline(), 30)
        received += line.startswith(b"event: op")
        if line.startswith(b'data: {"missed"'):
            missed += json.loads(line[5:])["missed"]
    writer.close()
    assert (received + missed, missed > 0) == (sent, True)
    assert running.feed.missed == missed


async def test_a_watcher_that_goes_is_forgotten(running: Observer, door: httpx.AsyncClient) -> None:
    """Its place is free again once the stream notices."""
    async with door.stream("GET", "/ops/stream") as answer:
        assert (answer.status_code, running.feed.watchers) == (200, 1)
    async with asyncio.timeout(120):
        while running.feed.watchers:
            await post(door, {})


async def test_a_full_house_of_watchers_is_told_to_come_again(running: Observer, door: httpx.AsyncClient) -> None:
    """503 with Retry-After, not an endless wait."""
    with contextlib.ExitStack() as seats:
        for _ in range(64):
            seats.enter_context(running.feed.watch(lambda _op: True))
        answer = await door.get("/ops/stream")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]


def samples(text: str) -> dict[tuple[str, str], float]:
    """Prometheus *text* as {(name, label value): value}; the scope's labels are left aside."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [text for name, text in sample.labels.items() if not name.startswith("otel_scope")]
            found[sample.name, labels[0] if labels else ""] = sample.value
    return found


async def test_metrics_are_prometheus_text_and_move(running: Observer, door: httpx.AsyncClient) -> None:
    """Counters count what happened between two looks."""
    answer = await door.get("/metrics")
    before = samples(answer.text)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    await post(door, {"success": True}, {}, {"source": "langfuse"})
    await door.post("/event", content=b'{"success": "maybe"}')
    await door.get("/stats", headers={"host": "evil.example"})
    await running.cycle.run_once()
    after = samples((await door.get("/metrics")).text)

    def moved(name: str, label: str = "") -> float:
        return after[name, label] - before.get((name, label), 0.0)

    assert moved("observer_events_accepted_total") == 3
    assert moved("observer_requests_refused_total", "invalid") == 1
    assert moved("observer_requests_refused_total", "forbidden") == 1
    assert moved("observer_journal_records_total", "ops") == 3
    assert moved("observer_cycles_total") == 1
    assert after["observer_ring_ops", ""] == 3
    assert after["observer_ring_by_source", "langfuse"] == 1
    assert after["observer_incidents", "new"] >= 1


async def test_a_rejected_correction_is_counted_as_lost(
    running: Observer, door: httpx.AsyncClient, tmp_path: Path
) -> None:
    """A row that cannot become an op shows in `/stats`, not in the log alone."""
    (tmp_path / "corrections.jsonl").write_text('null\n{"task_class": "t"}\n')
    await running.cycle.run_once()
    assert (await door.get("/stats")).json()["lost"]["correction_rejected"] == 1
    after = samples((await door.get("/metrics")).text)
    assert (after["observer_corrections_total", ""], after["observer_corrections_read_errors_total", ""]) == (1, 0)


async def test_health_is_as_ever_and_ready_means_started(running: Observer, door: httpx.AsyncClient) -> None:
    """`/health` has the fields it always had; the probes say ok."""
    await post(door, {}, {})
    assert (await door.get("/health")).json() == {"status": "ok", "ops_in_ring": 2}
    for path in ("/livez", "/readyz"):
        assert ((await door.get(path)).status_code, (await door.get(path)).json()) == (200, {"status": "ok"})


async def test_the_health_port_tells_nothing_but_health(running: Observer, door: httpx.AsyncClient) -> None:
    """By any Host name, as a kubelet asks by pod address; every other path is unknown there."""
    await post(door, {"endpoint": "secret"})
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{running.health_port}", trust_env=False, timeout=30
    ) as health:
        for path in ("/health", "/livez", "/readyz"):
            answer = await health.get(path, headers={"host": "10.1.2.3:3802"})
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        for path in ("/", "/event", "/events", "/stats", "/ops", "/ops/stream", "/metrics", "/openapi.json"):
            for method in ("GET", "POST"):
                answer = await health.request(method, path)
                assert (answer.status_code, bool(answer.json()["error"])) == (404, True)


async def test_incidents_and_playbooks_are_listed(running: Observer, door: httpx.AsyncClient) -> None:
    """What the cycles found, as the status page and people read it."""
    good = [{"endpoint": "/fill", "success": True, "features": {"shift": "night"}} for _ in range(6)]
    silent = [{"endpoint": "/silent", "success": True} for _ in range(6)]  # nothing to be said of them
    await post(door, *good, *silent, {"endpoint": "/fill", "error": "no"})
    for _ in range(5):
        await running.cycle.run_once()
    (incident,) = (await door.get("/incidents")).json()["incidents"]
    (entry,) = (await door.get("/playbooks")).json()["playbooks"]
    assert (incident["endpoint"], incident["count"], incident["diagnosed_by"]) == ("/fill", 1, "statistics")
    assert (entry["endpoint"], entry["kind"], entry["successes"]) == ("/fill", "do", 6)


async def test_incidents_come_a_page_at_a_time(door: httpx.AsyncClient) -> None:
    """The pages together are the list; a cursor that is not known is said to be."""
    await post(door, *({"endpoint": f"/e{number}", "error": "no"} for number in range(5)))
    found: list[dict[str, Any]] = []
    cursor: dict[str, str | None] = {}
    for size in (2, 2, 1):
        page = (await door.get("/incidents", params={"limit": 2, **cursor})).json()
        assert len(page["incidents"]) == size
        found += page["incidents"]
        cursor = {"cursor": page.get("next_cursor")}
    assert cursor == {"cursor": None}
    assert found == (await door.get("/incidents")).json()["incidents"]
    assert (await door.get("/incidents?cursor=unknown")).status_code == 404
    assert (await door.get("/incidents?endpoint=/e1")).status_code == 422


async def test_the_description_names_every_door(door: httpx.AsyncClient) -> None:
    """`/openapi.json` needs no token and lists the paths that answer."""
    described = (await door.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.")
    for path, methods in described["paths"].items():
        for method in methods:
            if (path, method) != ("/ops/stream", "get") and "{" not in path:
                status = (await door.request(method, path)).status_code
                # doors that say, with a 404, where to go instead, or that there is no webhook
                refused = path in ("/v1/logs", "/v1/metrics", "/webhook/test")
                assert status != 405, path
                assert (status == 404) is refused, path


class _Broken:
    """A door with a fault of its own."""

    async def on_get(self, _req: falcon.asgi.Request, _resp: falcon.asgi.Response) -> None:
        raise ZeroDivisionError


async def test_a_fault_of_ours_and_not_being_ready_are_told_as_json() -> None:
    """500 says where to look and nothing of the fault itself; 503 keeps traffic away until every stage has started."""
    app = create_app({"/broken": _Broken(), "/readyz": ReadyzResource(lambda: "starting or stopping")}, None)
    door = HttpReceiver("test", app, host="127.0.0.1", port=0, setting="", request_timeout_s=30, grace_s=1)
    async with asyncio.TaskGroup() as tasks:
        await door.start(tasks)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{door.port}", trust_env=False, timeout=30) as http:
            broken, unready = await http.get("/broken"), await http.get("/readyz")
        await door.stop()
    assert (broken.status_code, unready.status_code) == (500, 503)
    assert "ZeroDivisionError" not in broken.json()["error"]
    assert unready.json()["error"]
