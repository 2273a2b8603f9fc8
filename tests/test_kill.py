"""`kill -9` under load: what was acknowledged is in the journal, and a restart goes on where things stood."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from random import Random

from tests.crash.faults import Scene
from tests.crash.journal import read
from tests.crash.load import CONNECTIONS, Ledger, Sender
from tests.crash.oracle import judge
from tests.crash.servers import Collector, Gateway
from tests.processes import PATIENCE_S, UNMEASURED, Process, observer_life


async def test_no_acknowledged_op_is_lost(tmp_path: Path) -> None:
    """At 64 connections, killed in full flight three times over: each once, intact, in order; corrections too."""
    (tmp_path / "corrections.jsonl").write_text(
        "".join(json.dumps({"task_class": "staffing.fill", "correction": f"advice {n}"}) + "\n" for n in range(7))
    )
    scene = Scene(tmp_path / "data", Random(1), Ledger(), Collector(), Gateway())
    for round_number in range(3):
        async with observer_life(tmp_path, OBSERVER_CYCLE="0.1", **UNMEASURED) as observer:
            await asyncio.to_thread(observer.wait_for, "cycle.completed", lambda event: event["cycle"] >= 3)
            await _post_until_killed(observer, scene, round_number)
    async with observer_life(tmp_path) as observer:
        restored = observer.wait_for("state.restored")

    records = [line.record for line in read(scene.data)[0]]
    assert judge(scene, set()).kinds == {}
    assert len(scene.ledger.acknowledged) > 3 * CONNECTIONS
    assert restored["ring"] == min(2000, len(records))
    corrections = Counter(record["correction"] for record in records if record["source"] == "overseer_correction")
    assert corrections == {f"advice {n}": 1 for n in range(7)}


async def _post_until_killed(observer: Process, scene: Scene, round_number: int) -> None:
    """Post over all connections; the kill comes when there have been some answers."""
    port = int(observer.url.rpartition(":")[2])
    async with asyncio.TaskGroup() as senders:
        for number in range(CONNECTIONS):
            name = round_number * CONNECTIONS + number
            senders.create_task(Sender(port, name, scene.ledger, Random(name)).run())
        assert await scene.ledger.wait_acknowledged(20 * CONNECTIONS, PATIENCE_S)
        await asyncio.to_thread(observer.kill)
