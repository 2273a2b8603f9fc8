"""OBSERVER_GATEWAY_LOG=false: nothing goes to the gateway's `/log`, all else goes on."""

from __future__ import annotations

from pathlib import Path

from sidecar.pipeline.observer import Observer
from tests.observers import client, cycle, journal, observer, stand_in


async def _learn(running: Observer, endpoint: str) -> None:
    async with client(running) as door:
        events: list[dict[str, object]] = [{"endpoint": endpoint, "error": "closed"} for _ in range(3)]
        events += [{"endpoint": "/good", "success": True, "input_summary": f"a {n}"} for n in range(6)]
        await door.post("/events", json=events)


async def test_nothing_is_posted_if_the_log_is_off(tmp_path: Path) -> None:
    """Diagnoses and summaries are decided all the same; a start with posts on tells what is learnt from then on."""
    async with stand_in() as gateway:
        env = {"GATEWAY_URL": gateway.url}
        async with observer(tmp_path, **env, OBSERVER_GATEWAY_LOG="false") as running:
            await _learn(running, "/fill")
            for _ in range(5):
                await running.cycle.run_once()
            assert running.analyzer.diagnoses == 1
            assert running.consolidator.written == 1
        assert gateway.posts("/log") == []
        async with observer(tmp_path, **env) as running:
            await running.outbox.idle()
            assert gateway.posts("/log") == []
            await _learn(running, "/book")
            await cycle(running)
            assert len(gateway.posts("/log")) >= 1
            assert not any("/good" in entry["operation"] for entry in gateway.posts("/log"))
    assert {"diagnosis", "playbook"} <= {line["kind"] for line in journal(tmp_path, "decisions.jsonl")}


async def test_posts_that_wait_are_kept_while_the_log_is_off(tmp_path: Path) -> None:
    """They are neither sent nor dropped."""
    async with observer(tmp_path) as running:  # nobody listens at this gateway
        await _learn(running, "/fill")
        await cycle(running)
        assert running.outbox.waiting == 1
    async with stand_in() as gateway:
        env = {"GATEWAY_URL": gateway.url}
        async with observer(tmp_path, **env, OBSERVER_GATEWAY_LOG="false") as running:
            await running.cycle.run_once()
        assert gateway.posts("/log") == []
        async with observer(tmp_path, **env):
            await gateway.wait_for("/log")
