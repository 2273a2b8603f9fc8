"""What was learnt is made again from the journals, byte for byte: rules, entries, coins, outcomes, decisions."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sidecar.store.checkpoint_copy import dumped
from sidecar.store.journal_file import AppendFile
from sidecar.store.segments import journal_span
from tests.observers import client, cycle, observer
from tests.test_replay import drop_all, in_thread, replay

ENDPOINT = "/tools/fill"


async def task(http: httpx.AsyncClient, dice: Random, name: str) -> None:
    """Asks, does as it is told, calls; one in five reports how it went, one in ten reads the playbook."""
    features: dict[str, Any] = {"certified": dice.random() < 0.5, "shift": dice.choice(["day", "night"])}
    asked = {key: json.dumps(value).strip('"') for key, value in features.items()}
    answer = (await http.get("/advice", params={"endpoint": ENDPOINT, "task": name, **asked})).json()
    for item in answer["advice"]:
        features |= item["set"]
    if dice.random() < 0.1:
        await http.get("/playbooks", params={"task": name})
    success = dice.random() < (0.95 if features["certified"] else 0.15)
    if answer["exposure_id"] and dice.random() < 0.2:
        await http.post(f"/advice/{answer['exposure_id']}/outcome", json={"success": success})
    event = {"endpoint": ENDPOINT, "success": success, "features": features, "task": name}
    if answer["exposure_id"] and dice.random() < 0.5:
        event["exposure_id"] = answer["exposure_id"]
    await http.post("/event", json={**event, "error": "" if success else "refused"})


async def live(tmp_path: Path, *, segment: int = 10**9, lives: int = 3) -> Any:
    """Tasks beside each other and beside the cycles, with people's decisions and restarts in between.

    Returns the effect of all advice.
    """
    open_file = partial(AppendFile, segment_bytes=segment)
    dice = Random(5)
    for life in range(lives):
        async with observer(tmp_path, open_file=open_file) as running, client(running) as http:
            for round_ in range(4):
                tasks = [task(http, dice, f"t-{life}-{round_}-{number % 34}") for number in range(40)]
                await asyncio.gather(*tasks, cycle(running))
                await cycle(running)
            entries = (await http.get("/playbooks")).json()["playbooks"]
            for entry, action in zip(entries, ("approve", "retire", "restore"), strict=False):
                await http.post(f"/playbooks/{entry['playbook_id']}/{action}")
            stats = (await http.get("/stats")).json()
            assert (running.books.decided.failures, running.books.in_order.failures) == (0, 0)
            assert (running.books.in_order.unordered, running.books.learning.not_counted) == (0, 0)
            if life == 1:
                await drop_all(running)
    assert stats["rules"]["found"] >= 1
    measured = stats["advice"]["measured"]
    assert measured["shown"]["tasks"] > 10 < measured["withheld"]["tasks"]
    assert isinstance(measured["effect"], float)
    return measured["effect"]


async def test_effects_are_known_before_the_first_cycle(tmp_path: Path) -> None:
    """After a restart people need not wait for it."""
    effect = await live(tmp_path, lives=1)
    async with observer(tmp_path) as running, client(running) as http, asyncio.timeout(60):
        while (known := (await http.get("/stats")).json()["advice"]["measured"]["effect"]) is None:
            pass
        assert running.cycle.cycles == 0
    assert known == pytest.approx(effect)


@pytest.mark.parametrize("segment", [10**9, 30_000], ids=["journals alone", "across a checkpoint"])
async def test_everything_learnt_is_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str], segment: int) -> None:
    """The same dump, though ops settled while coins and cycles were being written."""
    await live(tmp_path, segment=segment)
    before = dumped(tmp_path / "data" / "state.db")
    kinds = {key.partition("/")[0] for key in json.loads(before)["learning"]}
    assert kinds == {"rules", "rule_numbering", "entry", "unit", "tally", "together"}
    assert (journal_span(tmp_path / "data" / "ops.jsonl")[0] > 0) is (segment < 10**9)
    after, said = await in_thread(replay, tmp_path, capsys)
    assert after == before
    assert ("from the checkpoint" in said) is (segment < 10**9)
