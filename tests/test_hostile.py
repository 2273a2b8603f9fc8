"""Faults around the observer and hostile input: health answers all the while, and the cycles go on."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.errors import StartError
from sidecar.pipeline.observer import Observer
from tests.observers import DEAD, FaultyFile, client, journal, observer, says, settled, stand_in

_ODD = (
    "constructor",
    "__proto__",
    "a\u0000b",
    "lone \ud800 surrogate",
    "",
    "\u202e",
    "x" * 30_000,
    "../../etc",
    "%s%n{}",
)
_TEXT_FIELDS = (
    *("endpoint", "input_summary", "output_summary", "error", "source", "staffer_id", "sig_hash", "event_kind"),
    *("role", "city", "state", "task_class", "correction", "error_type", "task", "exposure_id", "event_id", "amends"),
)


class Watched:
    """Asks for health, on both ports, again and again for as long as the block lasts, and counts."""

    def __init__(self, running: Observer) -> None:
        self._running = running
        self.answers = 0
        self.ending = False

    async def look(self) -> None:
        """Both ports say ok."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            for port in (self._running.port, self._running.health_port):
                answer = await http.get(f"http://127.0.0.1:{port}/health")
                assert (answer.status_code, answer.json()["status"]) == (200, "ok")
                self.answers += 1

    async def keep_looking(self) -> None:
        """Look until told to end."""
        while not self.ending:
            await self.look()


@asynccontextmanager
async def healthy(running: Observer) -> AsyncIterator[Watched]:
    """Health is asked for all through the block, and is well at its end; a bad answer fails the test."""
    watched = Watched(running)
    looking = asyncio.create_task(watched.keep_looking())
    try:
        yield watched
    finally:
        watched.ending = True
        await looking
    await watched.look()


async def cycles_go_on(running: Observer, more: int = 2) -> None:
    """Return once *more* cycles of the loop's own have been completed."""
    goal = running.cycle.cycles + more
    async with asyncio.timeout(120), client(running) as http:
        while running.cycle.cycles < goal:
            await http.get("/livez")  # each answer lets the loop turn


async def post(running: Observer, event: object) -> int:
    async with client(running) as http:
        return (await http.post("/event", content=json.dumps(event).encode())).status_code


async def test_hung_model_dead_gateway_and_dead_collector_at_once(tmp_path: Path) -> None:
    """Everything around is broken: events are taken, calls get their failure, cycles go on by counting."""
    async with stand_in() as model:
        model.silent.add("/ai/generate")
        env = {"LAKEHOUSE_URL": model.url, "OBSERVER_MODEL_TIMEOUT": "0.3", "OTEL_EXPORTER_OTLP_ENDPOINT": DEAD}
        async with observer(tmp_path, OBSERVER_CYCLE="0.1", **env) as running:
            async with healthy(running) as watched:
                assert await post(running, {"error": "no"}) == 200
                _, op = await running.gateway.observed("/x", {}, "call")
                assert not op.success
                await model.wait_for("/ai/generate")
                await cycles_go_on(running, 4)
            assert watched.answers > 0
            assert running.analyzer.diagnoses > 0
            assert running.outbox.waiting > 0  # kept for a gateway that comes back
        assert len(journal(tmp_path)) == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_a_journal_that_cannot_be_written(tmp_path: Path, number: int) -> None:
    """Senders are told to come again, calls are not hurt and counted; when it can be written again all is well."""
    fault = FaultyFile.fresh()
    async with (
        stand_in() as gateway,
        observer(tmp_path, open_file=fault, GATEWAY_URL=gateway.url, OBSERVER_CYCLE="0.1") as running,
    ):
        assert await post(running, {"role": "before"}) == 200
        fault.failure = OSError(number, os.strerror(number))
        async with healthy(running), client(running) as http:
            refused = await http.post("/event", content=b'{"role": "refused"}')
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert os.strerror(number) in refused.json()["error"]
            data, op = await running.gateway.observed("/x", {}, "call")
            assert (data, op.success) == ({}, True)
            await settled(running, 2)
            assert (await http.get("/stats")).json()["lost"]["journal_unwritten"] == 1
            await cycles_go_on(running)
        fault.failure = None
        assert await post(running, {"role": "after"}) == 200
        assert [line["role"] for line in journal(tmp_path)] == ["before", "after"]
        assert len(running.ring) == 3


async def test_a_disk_that_stalls(tmp_path: Path) -> None:
    """Each write blocks: senders get 503 within their bound, calls and health do not wait; then the rest is written."""
    fault = FaultyFile.fresh()
    env = {"OBSERVER_COMMIT_TIMEOUT": "1", "OBSERVER_CYCLE": "0.1"}
    async with (
        stand_in() as gateway,
        observer(tmp_path, open_file=fault, GATEWAY_URL=gateway.url, **env) as running,
    ):
        fault.open_gate.clear()
        async with healthy(running):
            assert await asyncio.gather(*(post(running, {"role": "stalled"}) for _ in range(20))) == [503] * 20
            for _ in range(20):
                _, op = await running.gateway.observed("/x", {}, "call")
                assert op.success
            await cycles_go_on(running)
            assert journal(tmp_path) == []
        fault.open_gate.set()
        await settled(running, 40)  # what joins the batch that stalled is refused with it
        assert await post(running, {"role": "after"}) == 200
        await settled(running, 41)
        assert len(journal(tmp_path)) == 41
        assert running.ops_log.refused == 0


async def test_a_disk_that_stalls_for_long_holds_a_bounded_amount(tmp_path: Path) -> None:
    """What the journal cannot take any more is refused and counted; memory is bounded."""
    fault = FaultyFile.fresh()
    async with observer(tmp_path, open_file=fault, OBSERVER_COMMIT_TIMEOUT="0.2") as running, client(running) as http:
        fault.open_gate.clear()
        event = json.dumps({"note": "x" * (2**20 - 100)}).encode()
        async with healthy(running):
            for _ in range(4):
                answers = await asyncio.gather(*[http.post("/event", content=event) for _ in range(12)])
                assert {answer.status_code for answer in answers} == {503}
        assert running.ops_log.refused > 0
        assert running.ops_log.pending_bytes <= 32 * 2**20
        fault.open_gate.set()


async def test_a_data_folder_that_cannot_be_opened_is_refused_at_start(tmp_path: Path) -> None:
    """A file in its place: a clear error, no half-open observer."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(StartError):
        async with observer(tmp_path):
            pass


async def test_hostile_names_and_texts_everywhere(tmp_path: Path) -> None:
    """In every text field of events, bodies and answers: all are taken, and nothing in the cycle stumbles."""
    async with (
        stand_in() as gateway,
        observer(tmp_path, GATEWAY_URL=gateway.url, LAKEHOUSE_URL=gateway.url, OBSERVER_CYCLE="0.1") as running,
    ):
        gateway.answers["/ai/generate"] = says({"text": "\ud800\u0000 constructor"})
        async with healthy(running):
            events = 0
            for odd in _ODD:
                for success in (True, True, True, True, True, False):
                    event: dict[str, Any] = {**dict.fromkeys(_TEXT_FIELDS, odd), odd: odd, "success": success}
                    event["features"] = {odd: odd, "constructor": 1}
                    event["event_id"] = f"{odd}{events}"  # the same again would be taken for a repetition
                    assert await post(running, event) == 200, odd[:20]
                    events += 1
                gateway.answers["/odd"] = says({"error": odd, odd: odd})
                _, op = await running.gateway.observed("/odd", {odd: odd}, odd)
                assert op.success == (odd == "")
            await settled(running, events + len(_ODD))
            await cycles_go_on(running, 6)
        assert running.cycle.step_failures == running.cycle.cycle_failures == running.settled.failures == 0
        assert running.op_processor.lost == running.ops_log.downstream_errors == running.consolidator.failed == 0
        (tmp_path / "data" / "ops.jsonl").read_bytes().decode("utf-8", "strict")
    async with observer(tmp_path) as again:  # and all of it is read back
        assert len(again.ring) == events + len(_ODD)
        assert again.checkpoint.damaged == 0


async def test_two_hundred_slow_clients(tmp_path: Path) -> None:
    """Connections that say nothing, half a head or half a body hold nobody up, and are closed in the end."""
    starts = (
        b"",
        b"POST /event HT",
        b"POST /event HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"POST /event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
    )
    async with observer(tmp_path, OBSERVER_BODY_TIMEOUT="4", OBSERVER_CYCLE="0.1") as running:
        slow = []
        for number in range(200):
            connection = await asyncio.open_connection("127.0.0.1", running.port)
            connection[1].write(starts[number % len(starts)])
            slow.append(connection)
        async with healthy(running):
            assert await post(running, {}) == 200
            await cycles_go_on(running)
            ends = await asyncio.wait_for(asyncio.gather(*(reader.read() for reader, _ in slow)), 60)
        assert all(said == b"" or b'"error"' in said for said in ends)
        for _, writer in slow:
            writer.close()
        assert (len(running.ring), running.budget.used) == (1, 0)


async def test_clients_that_leave_in_the_middle(tmp_path: Path) -> None:
    """A body cut off by its sender is no event, and its room in flight is given back."""
    async with observer(tmp_path) as running:
        for path in (b"/event", b"/events"):
            for _ in range(50):
                _, writer = await asyncio.open_connection("127.0.0.1", running.port)
                writer.write(b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{}\n{}\n" % path)
                await writer.drain()
                writer.close()
        assert await post(running, {}) == 200
        async with asyncio.timeout(120), client(running) as http:
            while running.budget.used:
                await http.get("/livez")
        assert len(journal(tmp_path)) == 1


async def test_a_stop_does_not_wait_for_clients_that_do_nothing(tmp_path: Path) -> None:
    """Half a request is given up, a stream that nobody reads is cut; the stop is clean and the journal whole."""
    starts = (
        b"POST /event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
        b"GET /ops/stream HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /he",
    )
    idle = []
    async with observer(tmp_path, OBSERVER_GRACE="6") as running, client(running) as http:
        for start in starts:
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", running.port))
            connection.sendall(start)
            idle.append(connection)
        batch = b"\n".join([json.dumps({"note": "x" * 4000}).encode()] * 1000)
        while running.feed.missed == 0:  # until the stream is full: its reader sleeps
            assert (await http.post("/events", content=batch)).status_code == 200
        sent = running.intake.accepted
    assert len(journal(tmp_path)) == sent
    for connection in idle:
        connection.close()


async def test_a_batch_that_is_dear_to_read_lets_others_in_between(tmp_path: Path) -> None:
    """Large events full of what looks like credentials: health answers between them, not after the last."""
    event = json.dumps({"note": "password: " * 10_000}).encode()
    async with observer(tmp_path) as running, client(running) as http:
        batch = asyncio.create_task(http.post("/events", content=b"\n".join([event] * 20)))
        watched = Watched(running)
        async with healthy(running):
            while not running.ops_log.pending_bytes + len(running.ring):
                await watched.look()
            await watched.look()
            assert not batch.done()
        assert (await batch).json()["accepted"] == 20


async def test_an_event_is_taken_while_a_large_one_is_read(tmp_path: Path) -> None:
    """A mebibyte of credentials takes long to mask: what comes behind it does not wait for that."""
    event = {"input_summary": "http://u:p@h/p?access_token=abc%20&x=1 " * 26_000}
    async with observer(tmp_path) as running, client(running) as http:
        large = asyncio.create_task(http.post("/event", json=event))
        watched = Watched(running)
        while not running.intake._large.locked():
            await watched.look()
        assert (await http.post("/event", json={"endpoint": "/small"})).status_code == 200
        assert not large.done()
        assert (await large).status_code == 200
    assert [op["endpoint"] for op in journal(tmp_path)] == ["/small", "scenario:fill"]
    assert "access_token=[redacted]&x=1" in journal(tmp_path)[1]["input_summary"]


async def test_health_answers_between_large_events_full_of_credentials(tmp_path: Path) -> None:
    """Each takes long to mask; they are dealt with one at a time, and whoever asks for health comes in between."""
    event = {"input_summary": "password: hunter2 Bearer abcdefgh12345 " * 20_000}
    seen: list[int] = []
    async with observer(tmp_path) as running, healthy(running) as watched:

        async def send() -> None:
            assert await post(running, event) == 200
            seen.append(watched.answers)

        await asyncio.gather(*(send() for _ in range(5)))
    assert len(set(seen)) > 2, seen
