"""Posts to the gateway's `/log` by the real program: every way to fail, kills between, each once by its key."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.observers import Answer, Asked, StandIn, cycle, observer, stand_in
from tests.processes import UNMEASURED, Process, running_observer

_LEAST = 3
"""A diagnosis in the first cycle, another when its count has doubled, and an entry in the fifth."""


class Taken:
    """What a gateway has taken, by key; as one does that knows a key again."""

    def __init__(self) -> None:
        self.entries: dict[str, bytes] = {}
        self.repeated: list[str] = []

    def __call__(self, asked: Asked) -> Answer:
        key = asked.headers["idempotency-key"]
        if self.entries.setdefault(key, asked.body) != asked.body:
            self.repeated.append(key)
        return Answer()


def refuses(_asked: Asked) -> Answer:
    raise ConnectionResetError  # the stand-in closes the connection


def break_it(gateway: StandIn, fault: str) -> None:
    answers: dict[str, Answer | Callable[[Asked], Answer]] = {
        "500": Answer(500),
        "429": Answer(429, b"", ((b"retry-after", b"1"),)),
        "refuses": refuses,
    }
    if fault == "hangs":
        gateway.silent.add("/log")
    else:
        gateway.answers["/log"] = answers[fault]


def mend(gateway: StandIn, taken: Taken) -> None:
    gateway.silent.clear()
    gateway.answers["/log"] = taken
    gateway.release()


async def learn(process: Process, *, failures: int) -> None:
    """Give the observer something to tell of."""
    events: list[dict[str, object]] = [{"endpoint": "/fill", "error": "closed"} for _ in range(failures)]
    events += [{"endpoint": "/good", "success": True} for _ in range(6)]
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.post(process.url + "/events", json=events)
    assert answer.json()["accepted"] == len(events)


async def arrived(gateway: StandIn, taken: Taken, count: int) -> None:
    async with asyncio.timeout(120):
        while len(taken.entries) < count:
            await gateway.wait_for("/log", gateway.counts().get("/log", 0) + 1)


@pytest.mark.parametrize("fault", ["500", "429", "hangs", "refuses"])
async def test_each_post_arrives_once_whatever_the_gateway_did_and_however_the_observer_ended(
    tmp_path: Path, fault: str
) -> None:
    """The gateway fails; the observer is killed after its first attempt, and again in the next; then it recovers."""
    taken = Taken()
    async with stand_in() as gateway:
        break_it(gateway, fault)
        env = {"GATEWAY_URL": gateway.url, "OBSERVER_CYCLE": "0.1"}
        for failures in (1, 2):
            with running_observer(tmp_path, **env, **UNMEASURED) as process:
                await learn(process, failures=failures)
                seen = gateway.counts().get("/log", 0)
                await asyncio.to_thread(process.wait_for, "diagnosis.written")
                await asyncio.to_thread(process.wait_for, "cycle.completed", lambda event: event["cycle"] >= 6)
                await gateway.wait_for("/log", seen + 1)
                await asyncio.to_thread(process.kill)
        mend(gateway, taken)
        with running_observer(tmp_path, **env) as process:
            await asyncio.to_thread(process.wait_for, "cycle.completed", lambda event: event["cycle"] >= 6)
            written = (tmp_path / "data/decisions.jsonl").read_bytes()
            decisions = sum(written.count(b'"kind":"%s"' % kind) for kind in (b"diagnosis", b"playbook"))
            await arrived(gateway, taken, decisions)
            async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
                metrics = (await http.get(process.url + "/metrics")).text
            await asyncio.to_thread(process.stop)
    assert taken.repeated == []
    assert len(taken.entries) == len(set(taken.entries.values()))
    assert "observer_posts_delivered_total" in metrics
    assert len(taken.entries) == decisions >= _LEAST


async def test_a_kill_between_the_decision_and_its_post_loses_nothing(tmp_path: Path) -> None:
    """What the decision journal has behind the checkpoint and the outbox has not is put at the next start."""
    async with stand_in() as gateway:
        async with observer(tmp_path) as running:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
                await http.post(f"http://127.0.0.1:{running.port}/event", json={"error": "closed"})
            await running.cycle.run_once()
        with closing(sqlite3.connect(tmp_path / "data/state.db")) as state, state:  # as the kill would have left it
            assert state.execute("DELETE FROM outbox").rowcount == 1
            state.execute("UPDATE cursors SET body = '0' WHERE name = 'decisions'")
        for _ in range(2):  # the second start brings nothing more
            async with observer(tmp_path, GATEWAY_URL=gateway.url) as running:
                await gateway.wait_for("/log")
                await cycle(running)
        (entry,) = gateway.posts("/log")
        assert entry["operation"] == "error_analysis: 1 failures"
