"""The README's agent loop, as it stands: in the demo's gateway it does better than an agent that does not ask."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sidecar.demo.gateway_process import gateway_process
from sidecar.demo.staffing_rules import CHANNELS
from tests.observers import client, cycle, observer

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

README = Path(__file__).resolve().parents[1] / "README.md"
JOB = {"role": "picker", "city": "Denver", "state": "CO", "count": 1, "certified": True}


def _example() -> Any:
    found = re.search(r"```python\n(import httpx\nfrom mcp .*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], str(README), "exec"), names)
    return names["fill"]


async def _succeeds(gateway: httpx.AsyncClient, job: dict[str, Any]) -> bool:
    answer = await gateway.post("/tools/fill_shift", json=job)
    return answer.is_success and "error" not in answer.json()


async def _taught(http: httpx.AsyncClient, gateway: httpx.AsyncClient, dice: Random) -> None:
    """What 240 calls of agents that choose their channel by chance came to."""
    jobs = [JOB | {"channel": dice.choice(CHANNELS)} for _ in range(240)]
    for start in range(0, len(jobs), 20):
        some = jobs[start : start + 20]
        came = await asyncio.gather(*(_succeeds(gateway, job) for job in some))
        events = [
            {"endpoint": "/tools/fill_shift", "success": success, "features": job, "task": f"w-{start + number}"}
            for number, (job, success) in enumerate(zip(some, came, strict=True))
        ]
        assert (await http.post("/events", json=events)).json()["accepted"] == 20


async def test_the_agent_that_asks_does_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thirty jobs that would go the way that fails, most succeed where few did."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    fill = _example()
    jobs = [JOB | {"channel": "sms"}] * 30
    async with (
        gateway_process(1, tmp_path / "gateway.log") as gateway_url,
        observer(tmp_path, OBSERVER_HOLDOUT="0.1") as running,
        client(running) as http,
        httpx.AsyncClient(base_url=gateway_url, timeout=30.0) as gateway,
    ):
        await _taught(http, gateway, Random(1))
        await cycle(running)
        (entry,) = [each for each in (await http.get("/playbooks")).json()["playbooks"] if each["author"] == "rule"]
        assert entry["text"].startswith('Avoid channel="sms"')
        assert (await http.post(f"/playbooks/{entry['playbook_id']}/approve")).status_code == 200
        alone = sum([await _succeeds(gateway, job) for job in jobs])
        asking = await fill(jobs, gateway_url, f"http://127.0.0.1:{running.port}")
        assert alone < 15 < 20 < asking
        measured = (await http.get(f"/playbooks/{entry['playbook_id']}")).json()["measured"]
        assert measured["shown"]["reported"] + measured["withheld"]["reported"] == 30
