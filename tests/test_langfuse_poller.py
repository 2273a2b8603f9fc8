"""A Langfuse server is read each cycle: everything becomes an op once, whatever is late, limited, broken, restarted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.clock import rfc3339_ms
from sidecar.model import Fragment, LangfuseTold, Score
from sidecar.normalize import Normalizer
from sidecar.receivers.langfuse_events import LangfuseReader
from sidecar.receivers.langfuse_pages import MOST_BYTES
from sidecar.receivers.langfuse_poller import LangfusePoller
from sidecar.receivers.langfuse_windows import CATCH_UP_S
from sidecar.redaction import Redactor
from tests.fakes import ManualClock
from tests.langfuse_server import FORWARD, KEYS, PULL, LangfuseServer, Store, given_score, langfuse_server, observation
from tests.observers import client, observer, settled, stand_in
from tests.test_langfuse_doors import ops, written
from tests.test_langfuse_forward import observed_span, send_spans


def ago(seconds: float) -> str:
    """A moment of the recent past."""
    return rfc3339_ms(time.time_ns() - round(seconds * 1e9))


def filled(count: int) -> Store:
    """A server's store with so many observations, a second apart, every third of them failed."""
    store = Store()
    for number in range(1, count + 1):
        failed = {"level": "ERROR", "statusMessage": f"only {number} workers"} if number % 3 == 0 else {}
        begin = 30 + count - number
        store.observations.append(observation(number, ago(begin), endTime=ago(begin - 0.25), **failed))
    return store


def env(server: LangfuseServer, **more: str) -> dict[str, str]:
    return {"LANGFUSE_PULL_URL": server.url, **PULL, **more}


async def test_observations_and_scores_are_pulled_once(tmp_path: Path) -> None:
    """Page by page, in cycle after cycle over the same ones, and after restarts of both sides."""
    store = filled(10)
    store.given_scores = [given_score(number, ago(5), of=number) for number in (1, 2)]
    async with langfuse_server(store) as first:
        first.page = 3
        async with observer(tmp_path, **env(first)) as running:
            await running.cycle.run_once()
            await running.cycle.run_once()
    async with langfuse_server(store) as second:
        store.observations.append(observation(11, ago(1), endTime=ago(0.5)))
        async with observer(tmp_path, **env(second)) as running, client(running) as http:
            await running.cycle.run_once()
            stats = (await http.get("/stats")).json()["langfuse"]["pull"]
    made = ops(tmp_path)
    plain = [op for op in made if not op.get("amends")]
    assert sorted(op["features"]["count"] for op in plain) == list(range(1, 12))
    assert [op["success"] for op in sorted(plain, key=lambda op: op["features"]["count"])][:3] == [True, True, False]
    judged = [op for op in made if op.get("amends")]
    assert {(op["error"], op["success"]) for op in judged} == {("correct: false: no such workers", False)}
    assert len(judged) == 2
    one = next(op for op in plain if op["features"]["count"] == 1)
    assert (one["endpoint"], one["task"], one["staffer_id"]) == ("execute_tool find_workers", "shift-7", "ann")
    assert (one["duration_ms"], one["source"], one["span_id"]) == (250, "langfuse", f"{1:016x}")
    assert (stats["failures"], stats["gaps"], stats["lag_s"] < 600) == (0, 0, True)
    assert all(query["limit"] <= ["200"] for _, _, query, _ in second.asked)


async def test_what_shows_late_is_not_missed(tmp_path: Path) -> None:
    """Rows that a reading did not show yet come with a later one, which goes back behind it."""
    store = filled(6)
    async with langfuse_server(store) as server:
        server.hidden = lambda row: row["id"] in (f"{2:016x}", f"{5:016x}")
        async with observer(tmp_path, **env(server)) as running:
            await running.cycle.run_once()
            assert len(ops(tmp_path)) == 4
            server.hidden = lambda _row: False
            await running.cycle.run_once()
            await running.cycle.run_once()
    assert sorted(op["features"]["count"] for op in ops(tmp_path)) == list(range(1, 7))


async def test_an_observation_that_goes_on_is_an_op_when_it_ends(tmp_path: Path) -> None:
    """It is shown without an end at first."""
    store = Store()
    store.observations = [observation(1, ago(20), endTime=None)]
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running:
        await running.cycle.run_once()
        assert ops(tmp_path) == []
        store.observations[0]["endTime"] = ago(0)
        await running.cycle.run_once()
    (op,) = ops(tmp_path)
    assert op["duration_ms"] > 19_000


async def test_what_came_by_a_door_is_not_counted_again(tmp_path: Path) -> None:
    """The observer is a tee, and reads the same server: one op, unless Langfuse knows of a failure that came later."""
    span = observed_span()
    store = Store()
    begin = ago(5)
    row = observation(1, begin, id=span.span_id.hex(), traceId=span.trace_id.hex(), endTime=begin)
    store.observations = [row]
    async with langfuse_server(store) as server:
        forward = {"LANGFUSE_FORWARD_URL": server.url, **FORWARD}
        async with observer(tmp_path, **env(server, **forward)) as running, client(running) as http:
            await send_spans(http, span)
            await running.cycle.run_once()
            assert len(ops(tmp_path)) == 1
            row.update(level="ERROR", statusMessage="found out later")
            await running.cycle.run_once()
            await running.cycle.run_once()
    first, second = ops(tmp_path)
    assert (second["amends"], second["success"], second["error"]) == (first["op_id"], False, "found out later")


async def test_a_limit_is_obeyed(tmp_path: Path) -> None:
    """429 ends the reading; nothing is asked before `Retry-After` is over, then it goes on where it stopped."""
    store = filled(5)
    async with langfuse_server(store) as server:
        server.page = 2
        pages = 0

        def refuses(_method: str, path: str) -> tuple[int, Any, dict[str, str]] | None:
            nonlocal pages
            pages += path.endswith("observations")
            return (429, {"message": "slow down"}, {"retry-after": "3600"}) if pages == 2 else None

        server.refuses = refuses
        async with observer(tmp_path, **env(server)) as running, client(running) as http:
            for _ in range(3):
                await running.cycle.run_once()
            assert (await http.get("/stats")).json()["langfuse"]["pull"]["limited"] == 1
            assert len(ops(tmp_path)) == 2
            assert len(server.asked) == 2
        async with observer(tmp_path, **env(server)) as running:  # another life does not know of the limit
            await running.cycle.run_once()
            assert "cursor" in server.asked[2][2]
    assert sorted(op["features"]["count"] for op in ops(tmp_path)) == list(range(1, 6))


async def test_a_hung_server_costs_its_step_alone(tmp_path: Path) -> None:
    """The cycle goes on within the time that is set; the next reading misses nothing."""
    store = filled(3)
    async with langfuse_server(store) as server:
        server.silent = True
        limit = {"OBSERVER_LANGFUSE_PULL_TIMEOUT": "0.2"}
        async with observer(tmp_path, **env(server, **limit)) as running, client(running) as http:
            await running.cycle.run_once()
            await running.cycle.run_once()
            assert (running.cycle.step_timeouts, running.cycle.step_failures, running.cycle.cycles) == (0, 0, 2)
            assert (await http.get("/stats")).json()["langfuse"]["pull"]["failures"] == 2
        server.silent = False
        async with observer(tmp_path, **env(server)) as running:
            await running.cycle.run_once()
    assert len(ops(tmp_path)) == 3


@pytest.mark.parametrize("answer", [(500, {"message": "ill"}), (200, ["no page"]), (200, {"data": 7}), (401, {})])
async def test_answers_that_are_none_cost_a_cycle(tmp_path: Path, answer: tuple[int, Any]) -> None:
    """Whatever the server says, the loop goes on, and the next reading misses nothing."""
    store = filled(3)
    async with langfuse_server(store) as server:
        server.refuses = lambda _method, _path: (*answer, {})
        async with observer(tmp_path, **env(server)) as running:
            await running.cycle.run_once()
            server.refuses = lambda _method, _path: None
            await running.cycle.run_once()
    assert len(ops(tmp_path)) == 3


async def test_a_row_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    """It is counted, and the others are taken."""
    store = filled(2)
    store.observations += [observation(8, ago(9), startTime=ago(9), endTime="soon"), observation(9, ago(9), id="")]
    store.given_scores = [given_score(1, ago(5), of=1, value=None)]
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running:
        await running.cycle.run_once()
        assert running.langfuse.poller is not None
        assert running.langfuse.poller.unreadable == 3
    assert len(ops(tmp_path)) == 2


async def test_a_page_that_is_too_large_is_read_in_smaller_ones(tmp_path: Path) -> None:
    """Down to one row, and a row that is too large alone without its texts; then pages grow again."""
    store = filled(6)
    store.observations[2]["input"] = json.dumps({"count": 3, "letter": "x" * MOST_BYTES})
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running:
        await running.cycle.run_once()
        async with client(running) as http:
            stats = (await http.get("/stats")).json()["langfuse"]["pull"]
        limits = [query["limit"][0] for _, path, query, _ in server.asked if path.endswith("observations")]
        await running.cycle.run_once()
        again = [query for _, path, query, _ in server.asked if path.endswith("observations")][len(limits) :]
    assert limits == ["200", "50", "12", "3", "6", "1", "1", "2"]
    assert (stats["failures"], stats["gaps"], stats["too_large"]) == (0, 0, 5)
    made = ops(tmp_path)
    assert sorted(op["features"]["count"] for op in made if op.get("features")) == [1, 2, 4, 5, 6]
    assert len(made) == 6
    assert again[0]["limit"] == ["4"]


async def test_what_cannot_be_read_at_all_is_a_gap_once(tmp_path: Path) -> None:
    """A row that is too large even without its texts: the window is given up and said, the next one is read."""
    store = Store()
    store.observations = [observation(1, ago(25), metadata="x" * MOST_BYTES)]
    async with langfuse_server(store) as server:
        async with observer(tmp_path, **env(server)) as running:
            assert running.langfuse.poller is not None
            await running.cycle.run_once()
            poller = running.langfuse.poller
            assert (poller.failures, poller.gaps, poller.too_large) == (1, 1, 6)
            assert poller.gap_s > 0
        store.observations = [observation(2, ago(2), endTime=ago(1))]
        async with observer(tmp_path, **env(server)) as running:
            await running.cycle.run_once()
    assert [op["features"]["count"] for op in ops(tmp_path)] == [2]


async def test_a_cursor_that_the_server_forgot_begins_the_window_anew(tmp_path: Path) -> None:
    """Nothing is missed, and nothing counted twice."""
    store = filled(5)
    async with langfuse_server(store) as server:
        server.page = 2
        async with observer(tmp_path, **env(server)) as running:
            refused = 0

            def refuses(_method: str, _path: str) -> tuple[int, Any, dict[str, str]] | None:
                nonlocal refused
                if "cursor" in server.asked[-1][2] and not refused:
                    refused += 1
                    return 400, {"message": "Invalid cursor"}, {}
                return None

            server.refuses = refuses
            await running.cycle.run_once()
    assert sorted(op["features"]["count"] for op in ops(tmp_path)) == list(range(1, 6))


class KeptInbox:
    """A `LangfuseInbox` that keeps what it is given."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []
        self.scores: list[Score] = []

    async def take(self, told: LangfuseTold) -> None:
        raise AssertionError

    async def observed(self, fragments: Sequence[Fragment]) -> None:
        self.fragments += fragments

    async def scored(self, scores: Sequence[Score]) -> None:
        self.scores += scores


class KeptBytes:
    """A `KeptCursor`."""

    def __init__(self) -> None:
        self.body = b""

    def load(self) -> bytes:
        return self.body

    async def save(self, body: bytes) -> None:
        self.body = body


async def test_windows_overlap_and_a_gap_is_counted() -> None:
    """Most readings go back a little, every tenth minute one goes far back; what is a day old is given up, and said."""
    clock, kept = ManualClock(), KeptBytes()
    async with langfuse_server() as server, httpx.AsyncClient(base_url=server.url, auth=KEYS, timeout=30) as http:

        def poller() -> LangfusePoller:
            reader = LangfuseReader(Normalizer(Redactor()))
            return LangfusePoller(http, reader, KeptInbox(), kept, clock, overlap_s=1200, timeout_s=5)

        def windows() -> list[float]:
            """How far back each reading of observations went, in seconds."""
            found = []
            for _, path, query, _ in server.asked:
                if path.endswith("observations"):
                    since, until = (query[name][0] for name in ("fromStartTime", "toStartTime"))
                    found.append(instant(until) - instant(since))
            return found

        one = poller()
        for _ in range(24):
            await one.pull()
            await clock.advance(30)
        backs = windows()
        assert backs[0] == 1200
        assert backs[1:20] == [150] * 19
        assert backs[20:] == [1230, 150, 150, 150]
        assert (one.gaps, one.lag_s) == (0, 30)
        await clock.advance(CATCH_UP_S + 600)
        late = poller()
        await late.pull()
        assert (late.gaps, round(late.gap_s), late.lag_s) == (2, 2 * 630, 0)


def instant(text: str) -> float:

    return datetime.fromisoformat(text).timestamp()


async def test_a_call_that_the_proxy_saw_is_not_counted_again(tmp_path: Path) -> None:
    """The tool's observation made it: pulled later, it is the same op; a failure that only the agent knew amends it."""
    store = Store()
    begin = ago(20)
    store.observations = [observation(number, begin, endTime=ago(19)) for number in (1, 2)]
    store.observations[1].update(level="ERROR", statusMessage="not who was asked for")
    store.given_scores = [given_score(1, ago(5), of=1)]
    async with stand_in() as gateway, langfuse_server(store) as server:
        proxy = {"GATEWAY_URL": gateway.url, "OBSERVER_PROXY_PORT": "0"}
        async with observer(tmp_path, **env(server, **proxy)) as running:
            assert running.proxy is not None
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.proxy.port}", timeout=30) as agent:
                for number in (1, 2):
                    parent = {"traceparent": f"00-{number:032x}-{number:016x}-01"}
                    await agent.post("/tools/find_workers", json={"count": number}, headers=parent)
            await settled(running, 2)
            for _ in range(2):
                await running.cycle.run_once()
            await written(running, tmp_path, 4)
            async with client(running) as http:
                stats = (await http.get("/stats")).json()
    assert (stats["total"], stats["failures"], stats["by_source"]) == (2, 2, {"mcp": 2})
    judged = {op["error"]: op["endpoint"] for op in ops(tmp_path) if op.get("amends")}
    assert judged == {
        "not who was asked for": "/tools/find_workers",
        "correct: false: no such workers": "/tools/find_workers",
    }
