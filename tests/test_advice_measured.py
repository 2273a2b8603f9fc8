"""What is measured of advice: when effects are looked at, what begins a trial anew, and what is shown of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import cycle as endlessly
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.ids import made_ms
from sidecar.pipeline.observer import Observer
from sidecar.store.checkpoint_copy import dumped
from tests.observers import client, cycle, journal, observer
from tests.test_advice_door import ASK, ENDPOINT, learnt
from tests.test_replay import in_thread, replay


def in_turn() -> Callable[[], float]:
    """Coins that fall one way and the other."""
    return endlessly((0.0, 0.999)).__next__


async def asked(http: httpx.AsyncClient, tasks: range) -> list[tuple[str, dict[str, Any]]]:
    """Each of *tasks* with the answer to its question."""
    return [(f"t-{n}", (await http.get("/advice", params={**ASK, "task": f"t-{n}"})).json()) for n in tasks]


def decided(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in journal(tmp_path, "decisions.jsonl") if line["kind"] == kind]


async def entry(http: httpx.AsyncClient, key: str) -> Any:
    return (await http.get(f"/playbooks/{key}")).json()


async def helped(running: Observer, http: httpx.AsyncClient) -> str:
    """The entry that helped each of the tasks that were told it, as a cycle has found."""
    (found,) = await learnt(running, http)
    for task, answer in await asked(http, range(60)):
        event = {"endpoint": ENDPOINT, "success": bool(answer["advice"]), "task": task}
        assert (await http.post("/event", json=event)).status_code == 200
    await cycle(running)
    key: str = found["playbook_id"]
    return key


async def test_reports_alone_retire_what_harms(tmp_path: Path) -> None:
    """Agents whose operations never come are all there is: the next cycle looks, though nothing else has happened."""
    async with observer(tmp_path, draw=in_turn()) as running, client(running) as http:
        (found,) = await learnt(running, http)
        for _, answer in await asked(http, range(60)):
            said = {"success": not answer["advice"]}
            assert (await http.post(f"/advice/{answer['exposure_id']}/outcome", json=said)).status_code == 200
        await cycle(running)
        told = await entry(http, found["playbook_id"])
        assert (told["state"], told["changes"][-1]["by"]) == ("retired", "numbers")
        assert told["measured"]["shown"]["reported"] + told["measured"]["withheld"]["reported"] == 60


async def test_whole_seconds_and_a_slow_clock_lose_no_outcome(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of events posted at once: each is held against when it came, as its line says; so it is in a replay."""
    async with observer(tmp_path, draw=in_turn()) as running, client(running) as http:
        await learnt(running, http)
        for number, (task, _) in enumerate(await asked(http, range(20))):
            now = datetime.now(UTC)
            ended = now.replace(microsecond=0) if number % 2 else now - timedelta(milliseconds=300)
            event = {"endpoint": ENDPOINT, "success": True, "task": task, "timestamp": ended.isoformat()}
            assert (await http.post("/event", json=event)).status_code == 200
        stats = (await http.get("/stats")).json()["advice"]
    asked_at = {line["body"]["task"]: line["body"]["at"] for line in decided(tmp_path, "exposure")}
    in_time = 0
    for line in journal(tmp_path)[200:]:
        since = datetime.fromisoformat(line["timestamp"]).timestamp() * 1000
        in_time += line["timestamp"] >= asked_at[line["task"]] or made_ms(line["op_id"]) - since < 2000
    measured = stats["measured"]
    assert (measured["shown"]["tasks"] + measured["withheld"]["tasks"], stats["too_early"]) == (in_time, 20 - in_time)
    before = dumped(tmp_path / "data" / "state.db")
    after, _ = await in_thread(replay, tmp_path, capsys)
    assert after == before


async def test_only_what_is_retired_is_restored(tmp_path: Path) -> None:
    """What was measured of an entry in use is not thrown away by mistake; the answer says what the entry is."""
    async with observer(tmp_path, draw=in_turn()) as running, client(running) as http:
        key = await helped(running, http)
        before = await entry(http, key)
        assert (before["state"], before["measured"]["shown"]["tasks"]) == ("active", 30)
        refused = await http.post(f"/playbooks/{key}/restore", json={"by": "ann"})
        assert refused.status_code == 409
        assert refused.json()["error"].startswith(f"{key} is not retired: it is active, ")
        assert await entry(http, key) == before


async def test_a_trial_that_began_anew_shows_no_effect_of_the_last(tmp_path: Path) -> None:
    """Right away, and after a cycle; before, the last effect stood beside groups of nobody."""
    async with observer(tmp_path, draw=in_turn()) as running, client(running) as http:
        key = await helped(running, http)
        assert (await entry(http, key))["measured"]["effect"] == 1.0
        for action in ("retire", "restore"):
            assert (await http.post(f"/playbooks/{key}/{action}")).status_code == 200
        for _ in range(2):
            measured = (await entry(http, key))["measured"]
            assert (measured["shown"]["tasks"], measured["withheld"]["tasks"]) == (0, 0)
            assert (measured["effect"], measured["low"], measured["high"]) == (None, None, None)
            await cycle(running)


async def test_rules_are_of_as_many_operations_after_a_restart(tmp_path: Path) -> None:
    """The number is of what is kept, like the rules beside it."""
    async with observer(tmp_path) as running, client(running) as http:
        await learnt(running, http)
        before = (await http.get("/stats")).json()["rules"]
    async with observer(tmp_path) as running, client(running) as http:
        after = (await http.get("/stats")).json()["rules"]
    assert (before["found"], before["ops"]) == (after["found"], after["ops"]) == (1, 200)
