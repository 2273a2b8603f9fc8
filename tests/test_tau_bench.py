"""Real agent traffic: 572 recorded tool calls of an airline benchmark, played through `observed()`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.pipeline.observer import Observer
from tests.observers import Answer, Asked, StandIn, cycle, journal, observer, says, settled, stand_in

_CALLS = Path(__file__).resolve().parents[2] / "shared" / "data" / "tau_bench_airline_gpt4o.jsonl"
pytestmark = pytest.mark.skipif(not _CALLS.exists(), reason="the recorded calls are not beside this repository")
_TOTAL, _FAILED = 572, 38


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in _CALLS.read_text().splitlines()]


def as_recorded(gateway: StandIn, calls: list[dict[str, Any]]) -> None:
    """Have *gateway* answer each call, in their order, with what was recorded for it."""
    upcoming: Iterator[dict[str, Any]] = iter(calls)

    def answer(asked: Asked) -> Answer:
        call = next(upcoming)
        assert (asked.path, asked.json()) == (f"/tools/{call['tool']}", call["arguments"])
        result: str = call["result"]
        return says({"result": result}) if call["success"] else says({"error": result.removeprefix("Error: ")})

    gateway.answers.update({f"/tools/{call['tool']}": answer for call in calls})


async def play(running: Observer, calls: list[dict[str, Any]]) -> int:
    """Make *calls*; give how many failed."""
    failures = 0
    for call in calls:
        _, op = await running.gateway.observed(
            f"/tools/{call['tool']}",
            call["arguments"],
            f"{call['tool']} {json.dumps(call['arguments'])}",
            task=f"airline-{call['task_id']}-{call['trial']}",
        )
        assert op.success == call["success"]
        failures += not op.success
    return failures


async def test_recorded_calls_are_seen_diagnosed_and_told_once(tmp_path: Path) -> None:
    """572 ops, 38 failures, a diagnosis in the cycle after the first failure, and no post without new evidence."""
    calls = recorded()
    first = next(number for number, call in enumerate(calls) if not call["success"])
    async with (
        stand_in() as gateway,
        observer(tmp_path, GATEWAY_URL=gateway.url, LAKEHOUSE_URL=gateway.url) as running,
    ):
        as_recorded(gateway, calls)
        gateway.answers["/ai/generate"] = lambda asked: says({"text": f"Look at these {len(asked.body)} bytes."})
        await play(running, calls[:first])
        await settled(running, first)
        await cycle(running)
        assert (gateway.posts("/ai/generate"), running.analyzer.diagnoses) == ([], 0)

        failures = await play(running, calls[first : first + 1])
        await settled(running, first + 1)
        await cycle(running)
        (entry,) = gateway.posts("/log")
        assert (entry["operation"], entry["approach"]) == ("error_analysis: 1 failures", "LLM-analyzed error patterns")
        assert entry["context"].startswith(f"[/tools/{calls[first]['tool']}] ")
        assert calls[first]["result"].removeprefix("Error: ")[:40] in entry["context"]

        for start in range(first + 1, _TOTAL, 60):
            batch = calls[start : start + 60]
            failures += await play(running, batch)
            await settled(running, start + len(batch))
            await cycle(running)
        assert (len(running.ring), failures, running.ring.failures) == (_TOTAL, _FAILED, _FAILED)
        assert sum(incident.count for incident in running.books.incidents.incidents()) == _FAILED

        for _ in range(5):  # whatever the last calls gave is told by then
            await cycle(running)
        told, asked = len(gateway.posts("/log")), len(gateway.posts("/ai/generate"))
        for _ in range(20):
            await cycle(running)
        assert (len(gateway.posts("/log")), len(gateway.posts("/ai/generate"))) == (told, asked)
        assert all(times == 1 for times in Counter(map(json.dumps, gateway.posts("/log"))).values())
        assert {entry["operation"].split(":")[0] for entry in gateway.posts("/log")} == {
            "error_analysis",
            "consolidated",
        }
    lines = journal(tmp_path)
    assert (len(lines), sum(not line["success"] for line in lines)) == (_TOTAL, _FAILED)
    assert len({line["task"] for line in lines}) == len({(call["task_id"], call["trial"]) for call in calls})


async def test_a_restart_repeats_nothing(tmp_path: Path) -> None:
    """What was told before a stop is not told again after it: state and decisions are on disk."""
    calls = recorded()[:120]
    async with stand_in() as gateway:
        as_recorded(gateway, calls)
        env = {"GATEWAY_URL": gateway.url, "LAKEHOUSE_URL": gateway.url}
        async with observer(tmp_path, **env) as running:
            await play(running, calls)
            await settled(running, len(calls))
            for _ in range(5):
                await cycle(running)
            told = gateway.posts("/log")
            incidents = sorted(incident.fingerprint for incident in running.books.incidents.incidents())
        assert told
        async with observer(tmp_path, **env) as running:
            for _ in range(10):
                await cycle(running)
            assert gateway.posts("/log") == told
            assert len(running.ring) == len(calls)
            assert sorted(incident.fingerprint for incident in running.books.incidents.incidents()) == incidents
