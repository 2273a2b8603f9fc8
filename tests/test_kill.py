"""`kill -9` under load: what was acknowledged is in the journal, and a restart goes on where things stood."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from tests.processes import Process, running_observer

CONNECTIONS = 64


async def test_no_acknowledged_op_is_lost(tmp_path: Path) -> None:
    """At 64 connections, killed in full flight three times over: each acknowledged id is in the file once."""
    (tmp_path / "corrections.jsonl").write_text(
        "".join(json.dumps({"task_class": "staffing.fill", "correction": f"advice {n}"}) + "\n" for n in range(7))
    )
    acknowledged: list[str] = []
    for round_number in range(3):
        with running_observer(tmp_path, OBSERVER_CYCLE="0.1") as observer:
            await asyncio.to_thread(observer.wait_for, "cycle.completed", lambda event: event["cycle"] >= 3)
            acknowledged += await _post_until_killed(observer, round_number)
    with running_observer(tmp_path) as observer:
        restored = observer.wait_for("state.restored")

    lines = [json.loads(line) for line in (tmp_path / "data/ops.jsonl").read_bytes().splitlines()]
    ids = Counter(line.get("event_id") for line in lines)
    assert len(acknowledged) > 3 * CONNECTIONS
    assert [one for one in acknowledged if ids[one] != 1] == []
    assert restored["ring"] == min(2000, len(lines))
    corrections = Counter(line["correction"] for line in lines if line.get("source") == "overseer_correction")
    assert corrections == {f"advice {n}": 1 for n in range(7)}


async def test_order_on_a_connection_is_order_in_the_file(tmp_path: Path) -> None:
    """Also when many connections write at once and the end is a kill."""
    with running_observer(tmp_path) as observer:
        await _post_until_killed(observer, 0)
    seen: dict[str, int] = {}
    for line in (tmp_path / "data/ops.jsonl").read_bytes().splitlines():
        connection, _, number = json.loads(line)["event_id"].rpartition("-")
        assert int(number) == seen.get(connection, -1) + 1
        seen[connection] = int(number)
    assert len(seen) == CONNECTIONS


async def _post_until_killed(observer: Process, round_number: int) -> list[str]:
    """Ids that were answered with 200 before the kill, which comes when each connection has had some answers."""
    host, port = "127.0.0.1", int(observer.url.rpartition(":")[2])
    acknowledged: list[str] = []
    enough = asyncio.Event()

    async def connection(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        for count in range(100_000):
            event_id = f"{round_number}-{number}-{count}"
            body = json.dumps({"event_id": event_id, "success": count % 3 > 0, "error": "no one is free"}).encode()
            writer.write(b"POST /event HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-l"))
                await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                return
            assert head.startswith(b"HTTP/1.1 200 ")
            acknowledged.append(event_id)
            if len(acknowledged) > 20 * CONNECTIONS:
                enough.set()

    async with asyncio.TaskGroup() as clients:
        for number in range(CONNECTIONS):
            clients.create_task(connection(number))
        await enough.wait()
        await asyncio.to_thread(observer.kill)
    return acknowledged
