"""The webhook is told of incidents that are new, escalating or back: from the journal, until it takes it, once each."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.errors import SettingsError
from sidecar.pipeline.observer import Observer
from tests.observers import DEAD, Answer, client, observer, says, settings, stand_in


async def fail(door: httpx.AsyncClient, error: str = "no seat") -> None:
    await door.post("/event", json={"endpoint": "/book", "success": False, "error": error})


async def cycle(running: Observer) -> None:
    """One cycle, and every post to the webhook tried once."""
    await running.cycle.run_once()
    assert running.webhook.outbox is not None
    await running.webhook.outbox.idle()


async def test_new_and_regressed_incidents_are_told_once(tmp_path: Path) -> None:
    """As JSON with a line for chat tools; what people decide is not told, nor is what stays as it is."""
    async with stand_in() as hook, observer(tmp_path, OBSERVER_WEBHOOK_URL=f"{hook.url}/T0/secret") as running:
        async with client(running) as door:
            await fail(door)
            await cycle(running)
            await cycle(running)
            key = (await door.get("/incidents")).json()["incidents"][0]["fingerprint"]
            await door.post(f"/incidents/{key}/resolve", json={"by": "ann"})
            await cycle(running)
            await fail(door)
            await cycle(running)
        new, regressed = hook.posts("/T0/secret")
        assert (new["event"], regressed["event"]) == ("incident.new", "incident.regressed")
        assert new["text"].startswith("new incident: /book: no seat (1 failure since ")
        assert regressed["text"].startswith("regressed incident: /book: no seat (2 failures since ")
        told = regressed["incident"]
        assert (told["fingerprint"], told["state"], told["was"], told["count"]) == (key, "regressed", "regressed", 2)
        assert len(told["trace_ids"]) == 2
        keys = [asked.headers["idempotency-key"] for asked in hook.asked]
        assert len(set(keys)) == 2
        assert hook.asked[0].headers["content-type"] == "application/json"


async def test_a_webhook_that_is_away_is_told_later_and_holds_nobody_up(tmp_path: Path) -> None:
    """Posts to the gateway go on; after a restart what waited is told; its address is in no table."""
    async with stand_in() as gateway:
        env = {"GATEWAY_URL": gateway.url, "OBSERVER_WEBHOOK_URL": f"{DEAD}/secret"}
        async with observer(tmp_path, **env) as running, client(running) as door:
            for number in range(5):
                await fail(door, f"reason {'abcdef'[number]} of them")
            await cycle(running)
            await running.outbox.idle()
            assert len(gateway.posts("/log")) == 1
            assert running.webhook.outbox is not None
            assert (running.webhook.outbox.delivered, running.outbox.delivered) == (0, 1)
            metrics = (await door.get("/metrics")).text
            assert "observer_posts_waiting" in metrics
        with closing(sqlite3.connect(tmp_path / "data" / "state.db")) as connection:
            rows = connection.execute("SELECT url, kind, state FROM outbox WHERE state <> 'done'").fetchall()
            assert rows == [("webhook", "webhook", "waiting")] * 5
            connection.execute("UPDATE outbox SET due_ns = 0 WHERE state = 'waiting'")
            connection.commit()
        async with stand_in() as hook, observer(tmp_path, OBSERVER_WEBHOOK_URL=hook.url):
            await hook.wait_for("/", 5)


async def test_a_test_goes_the_same_way(tmp_path: Path) -> None:
    """`POST /webhook/test` and the command; without a webhook both say so."""
    async with stand_in() as hook, observer(tmp_path, OBSERVER_WEBHOOK_URL=hook.url) as running:
        async with client(running) as door:
            assert (await door.post("/webhook/test")).json() == {"queued": True}
        await hook.wait_for("/")
        assert hook.posts("/")[0]["event"] == "test"
    async with observer(tmp_path) as running, client(running) as door:
        answer = await door.post("/webhook/test")
        assert (answer.status_code, "OBSERVER_WEBHOOK_URL" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize("answer", [says({}, 500), Answer(404, b"gone"), Answer(302, b"", ((b"location", b"/x"),))])
async def test_a_webhook_that_refuses_costs_its_post(tmp_path: Path, answer: Any) -> None:
    """5xx is tried again, 4xx is a dead letter, a redirect is not followed; the observer goes on."""
    async with stand_in() as hook, observer(tmp_path, OBSERVER_WEBHOOK_URL=hook.url) as running:
        hook.answers["/"] = answer
        async with client(running) as door:
            await fail(door)
            await cycle(running)
        assert running.webhook.outbox is not None
        await asyncio.sleep(0)
        assert hook.counts() == {"/": 1}
        assert running.webhook.outbox.failed == 1


def test_an_address_that_is_none_stops_the_start(tmp_path: Path) -> None:
    """It must be a whole URL."""
    with pytest.raises(SettingsError, match="OBSERVER_WEBHOOK_URL"):
        settings(tmp_path, OBSERVER_WEBHOOK_URL="/hooks/1")
