"""The README's agent loop, as it stands: in the demo's gateway it does better than an agent that does not ask."""

from __future__ import annotations

import asyncio
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sidecar.demo.gateway_process import gateway_process
from sidecar.demo.staffing_rules import CHANNELS
from tests.observers import DEAD, client, cycle, observer

pytest.importorskip("mcp", reason="the MCP SDK is not installed")

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
JOB = {"role": "picker", "city": "Denver", "state": "CO", "count": 1, "certified": True}


def _lines() -> str:
    found = re.search(r"```python\n(import math\n[^`]*from mcp .*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def _example(name: str = "fill") -> Any:
    names: dict[str, Any] = {}
    exec(compile(_lines(), str(README), "exec"), names)
    return names[name]


def test_the_example_has_the_lines_of_the_readme() -> None:
    """What the README shows is what `examples/agent.py` runs; its loop has at most ten lines."""
    imports, job, lines = _lines().partition("Job = ")
    example = (ROOT / "examples" / "agent.py").read_text()
    assert job + lines in example
    assert {*imports.split("\n")} <= {*example.split("\n")}
    loop = _lines().partition("done = 0\n")[2]
    assert 0 < len(loop.splitlines()) <= 10


def _followed() -> list[Any]:
    """The function that follows advice, of docs/otlp.md and of the README."""
    names: dict[str, Any] = {"math": math}
    page = (ROOT / "docs" / "otlp.md").read_text()
    start = page.index("def followed(")
    exec(compile(page[start : page.index("def call(", start)], "docs/otlp.md", "exec"), names)
    return [names["followed"], _example("followed")]


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        ({"nights": 15}, {"nights": {"up_to": 14.0}}, {"nights": 14}),
        ({"nights": 15}, {"nights": {"up_to": 14.5}}, {"nights": 14}),
        ({"nights": 14}, {"nights": {"up_to": 14.0}}, {"nights": 14}),
        ({"kg": 20.7}, {"kg": {"up_to": 20.5}}, {"kg": 20.5}),
        ({"days": 7}, {"days": {"above": 7.0}}, {"days": 8}),
        ({"days": 3}, {"days": {"above": 6.5, "up_to": 10.0}}, {"days": 7}),
        ({"days": 30}, {"days": {"above": 6.5, "up_to": 10.0}}, {"days": 10}),
        ({"kg": 1.0}, {"kg": {"above": 2.0}}, {"kg": math.nextafter(2.0, 3.0)}),
        ({}, {"nights": {"up_to": 14.0}}, {"nights": 14.0}),
        ({"nights": "many"}, {"nights": {"up_to": 14.0}}, {"nights": 14.0}),
        ({"city": "Reno", "n": 1}, {"city": None, "at": "b", "is": False}, {"n": 1, "at": "b", "is": False}),
        ({}, {"city": None}, {}),
    ],
)
def test_the_documented_agents_set_what_advice_wants(
    before: dict[str, Any], wanted: dict[str, Any], after: dict[str, Any]
) -> None:
    """Of a range the nearest number, whole where the argument is; null leaves it out; the given job stays as it is."""
    given = before.copy()
    for followed in _followed():
        assert followed(before, wanted) == after
        assert {name: type(value) for name, value in followed(before, wanted).items()} == {
            name: type(value) for name, value in after.items()
        }
    assert before == given


def test_without_an_observer_it_says_so_in_one_line() -> None:
    """What does not answer, and what to do; exit 1, no traceback."""
    command = [sys.executable, str(ROOT / "examples" / "agent.py"), DEAD, DEAD]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"agent: http://127.0.0.1:9/livez does not answer: .+ Start `make demo`, .+\n", done.stderr)


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
    jobs = {f"job-{number}": JOB | {"channel": "sms"} for number in range(30)}
    async with (
        gateway_process(1, tmp_path / "gateway.log") as gateway_url,
        observer(
            tmp_path,
            draw=Random(1).random,
            OBSERVER_HOLDOUT="0.1",
            GATEWAY_URL=gateway_url,
            OBSERVER_PROXY_PORT="0",
        ) as running,
        client(running) as http,
        httpx.AsyncClient(base_url=gateway_url, timeout=30.0, trust_env=False) as gateway,
    ):
        await _taught(http, gateway, Random(1))
        await cycle(running)
        (entry,) = [each for each in (await http.get("/playbooks")).json()["playbooks"] if each["author"] == "rule"]
        assert entry["text"].startswith('Avoid channel="sms"')
        assert (await http.post(f"/playbooks/{entry['playbook_id']}/approve")).status_code == 200
        assert running.proxy is not None
        alone = sum([await _succeeds(gateway, job) for job in jobs.values()])
        asking = await fill(jobs, f"http://127.0.0.1:{running.proxy.port}", f"http://127.0.0.1:{running.port}")
        assert alone < 15 < 20 < asking
        await cycle(running)
        measured = (await http.get(f"/playbooks/{entry['playbook_id']}")).json()["measured"]
        assert measured["shown"]["tasks"] + measured["withheld"]["tasks"] == 30  # seen by the proxy, not reported
        assert measured["shown"]["reported"] + measured["withheld"]["reported"] == 0
