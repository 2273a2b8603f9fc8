"""What people decide while a cycle's decisions are on their way into the journal: people first, in a replay too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sidecar.pipeline.learning import PLAYBOOK_CHANGE
from sidecar.store.checkpoint_copy import dumped
from tests.observers import FaultyFile, client, observer, stand_in
from tests.test_advice_door import learnt
from tests.test_replay import in_thread, replay


async def test_a_person_goes_before_a_look_that_is_under_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The incident stays ignored, the webhook is not called, and the journals say the same."""
    faulty = FaultyFile.fresh()
    async with stand_in() as hook:
        async with (
            observer(tmp_path, open_file=faulty, OBSERVER_WEBHOOK_URL=f"{hook.url}/hook") as running,
            client(running) as http,
        ):
            await http.post("/event", json={"endpoint": "/book", "success": False, "error": "no seat"})
            (incident,) = running.books.incidents.incidents()
            faulty.open_gate.clear()
            by_hand = asyncio.create_task(running.life_cycle.by_hand(incident.fingerprint, "ignored", "ann", "known"))
            look = asyncio.create_task(running.life_cycle.look())
            await asyncio.sleep(0)  # both are in the journal's batch, the person's first, and nothing is decided yet
            assert running.life_cycle.changes == 0
            faulty.open_gate.set()
            done, _ = await asyncio.gather(by_hand, look)
            assert done is not None
            assert (incident.state, incident.decided_by, incident.note) == ("ignored", "ann", "known")
            assert (running.life_cycle.changes, running.life_cycle.overtaken) == (1, 1)
            await running.cycle.run_once()
            assert incident.state == "ignored"
            assert running.webhook.outbox is not None
            await running.webhook.outbox.idle()
        assert hook.asked == []
    before = dumped(tmp_path / "data" / "state.db")
    after, _ = await in_thread(replay, tmp_path, capsys)
    assert after == before


@pytest.mark.parametrize("automatic", ["promote", "retire"])
async def test_a_person_goes_before_what_was_judged_from_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], automatic: str
) -> None:
    """An entry that was retired by hand is neither active again nor retired for another reason."""
    faulty = FaultyFile.fresh()
    async with observer(tmp_path, open_file=faulty) as running, client(running) as http:
        (entry,) = await learnt(running, http)
        key = entry["playbook_id"]
        row = running.books.learning.playbook.get(key)
        assert row is not None
        faulty.open_gate.clear()
        judged = row.due(automatic, entry["at"], "numbers", "")  # type: ignore[arg-type]  # both are actions
        by_hand = asyncio.create_task(running.learning.change(key, "retire", "I know better"))
        decided = asyncio.create_task(running.books.in_order.decide(PLAYBOOK_CHANGE, judged))
        await asyncio.sleep(0)
        assert row.state == "candidate"
        faulty.open_gate.set()
        await asyncio.gather(by_hand, decided)
        await running.books.in_order.caught_up()
        assert [(change.action, change.by) for change in row.changes] == [("retire", "person")]
        assert (row.state, (await http.get("/stats")).json()["advice"]["overtaken"]) == ("retired", 1)
    before = dumped(tmp_path / "data" / "state.db")
    after, _ = await in_thread(replay, tmp_path, capsys)
    assert after == before
