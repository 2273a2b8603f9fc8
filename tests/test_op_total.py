"""How many operations there ever were does not depend on what is in memory, or still in the journals."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sidecar import cli
from sidecar.pipeline.observer import Observer
from sidecar.store.checkpoint_copy import dumped
from sidecar.store.journal_file import AppendFile
from sidecar.store.segments import journal_span
from tests.observers import client, cycle, observer
from tests.test_replay import drop_all, events, replay


async def post(running: Observer, *batches: list[dict[str, Any]]) -> None:
    async with client(running) as http:
        for batch in batches:
            assert (await http.post("/events", json=batch)).is_success


async def test_it_outlives_the_ring_restarts_and_dropped_segments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An op that amends another is the same operation, and one that is sent again counts once."""
    first = [{**event, "event_id": f"e-{number}"} for number, event in enumerate(events(0, 40))]
    open_file = partial(AppendFile, segment_bytes=3000)
    async with observer(tmp_path, OBSERVER_RING="10", open_file=open_file) as running:
        await post(running, first[:20], first[20:], first[:5])
        last = next(running.ring.newest_first())
        await post(running, [{"endpoint": "/late", "success": True, "amends": last.op_id}])
        assert (len(running.ring), running.books.total.operations) == (9, 40)
        await drop_all(running)
    assert journal_span(tmp_path / "data" / "ops.jsonl")[0] > 0
    state = dumped(tmp_path / "data" / "state.db")
    assert (await asyncio.to_thread(replay, tmp_path, capsys))[0] == state
    async with observer(tmp_path, OBSERVER_RING="10") as running:
        await post(running, [{"endpoint": "/more", "success": True}])
        async with client(running) as http:
            stats = (await http.get("/stats")).json()
        assert (stats["total"], stats["operations_in_all"]) == (2, 41)
        for command, said in (("stats", "ever recorded"), ("report", "operations        41; of the last 2 ")):
            url = f"http://127.0.0.1:{running.port}"
            assert await asyncio.to_thread(cli.main, [command, "--url", url]) == 0
            assert said in capsys.readouterr().out


async def test_the_line_of_a_cycle_counts_every_source(tmp_path: Path) -> None:
    """In the original program's form: its counts first, then those with which the sum is the number in memory."""
    async with observer(tmp_path, OBSERVER_RING="10") as running, client(running) as http:
        for source in (*["scenario"] * 5, "langfuse", "mcp", "mcp", "otlp", "otlp", "ours"):
            assert (await http.post("/event", json={"source": source, "success": source != "otlp"})).is_success
        with capture_logs() as logs:
            await cycle(running)
    (line,) = [dict(each) for each in logs if each["event"] == "cycle.completed"]
    counts = {name: line[name] for name in line if name not in ("event", "log_level")}
    assert list(counts.items()) == [
        ("cycle", 1),
        ("total_ops", 10),
        ("successes", 8),
        ("failures", 2),
        ("scenario_ops", 4),
        ("langfuse_ops", 1),
        ("overseer_corrections", 0),
        ("mcp_ops", 2),
        ("otlp_ops", 2),
        ("other_ops", 1),
        ("ever_recorded", 11),
    ]
