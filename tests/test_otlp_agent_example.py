"""The agent of docs/otlp.md, as it stands there: asks about whatever inputs its tool has, acts, and is measured."""

from __future__ import annotations

import asyncio
import re
from itertools import cycle as endlessly
from pathlib import Path
from typing import Any

import pytest

from tests.doc_pages import PAGES
from tests.observers import DEAD, client, cycle, observer, settled

TASKS = 10
PAGE = PAGES["docs/otlp.md"]


def search(**inputs: str) -> str:
    """A tool one of whose inputs is called like a parameter of `/advice`."""
    if inputs["limit"] == "all":
        raise ValueError("too many")
    return inputs["limit"]


def pack_box(weight: int, kind: str) -> str:
    """A tool with a limit on a number, which nobody tells."""
    if weight > 20:
        raise ValueError("too heavy")
    return f"{kind} of {weight}"


def agent(observer_url: str) -> dict[str, Any]:
    """The names of the page's example, whose observer is at *observer_url*."""
    found = re.search(r"```python\n(.*?)```", PAGE.section("## An agent that asks first"), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    source = found[1].replace("http://localhost:3800", observer_url)
    assert source != found[1]
    exec(compile(source, str(PAGE.path), "exec"), names)
    names["observer"].timeout = 60.0  # a busy machine is not what is tested
    return names


def run(observer_url: str) -> list[str]:
    """What the tool returned to each of the tasks, or the error."""
    names, returned = agent(observer_url), []
    for number in range(TASKS):
        try:
            returned.append(names["call"](search, {"limit": "all", "task": "weekly"}, f"trip-{number}"))
        except ValueError as exc:
            returned.append(str(exc))
    names["provider"].shutdown()
    names["observer"].close()
    return returned


def pack(observer_url: str) -> list[str]:
    """What came of the boxes of sixty tasks, of 1 to 30 kg."""
    names, returned = agent(observer_url), []
    for number in range(60):
        try:
            returned.append(names["call"](pack_box, {"weight": number % 30 + 1, "kind": "box"}, f"order-{number}"))
        except ValueError as exc:
            returned.append(str(exc))
    names["provider"].shutdown()
    names["observer"].close()
    return returned


async def test_a_limit_on_a_number_is_kept(tmp_path: Path) -> None:
    """The failures of the agent as documented go down by those that are told: of these none is left."""
    coins = endlessly((0.0, 0.999)).__next__
    async with observer(tmp_path, draw=coins, OBSERVER_ADVICE_TIMEOUT="60") as running, client(running) as http:
        for number in range(300):
            weight = number * 7 % 30 + 1
            event = {"endpoint": "execute_tool pack_box", "success": weight <= 20}
            event |= {"features": {"weight": weight, "kind": "box"}, "task": f"before-{number}"}
            assert (await http.post("/event", json=event)).status_code == 200
        await cycle(running)
        returned = await asyncio.to_thread(pack, f"http://127.0.0.1:{running.port}")
        await settled(running, 360)
        measured = (await http.get("/stats")).json()["advice"]["measured"]
    assert returned[:20] == [f"box of {weight}" for weight in range(1, 21)]
    assert returned.count("too heavy") == 10  # of twenty that are too heavy, every other one is told
    assert returned.count("box of 20") == 2 + 10
    assert (measured["shown"]["tasks"], measured["shown"]["successes"]) == (10, 10)
    assert (measured["withheld"]["tasks"], measured["withheld"]["successes"]) == (10, 0)


async def test_an_input_called_like_a_parameter_is_asked_about_and_set(tmp_path: Path) -> None:
    """Every other task is told; each one's span is its outcome, whatever the clocks say."""
    coins = endlessly((0.0, 0.999)).__next__
    async with observer(tmp_path, draw=coins, OBSERVER_ADVICE_TIMEOUT="60") as running, client(running) as http:
        for number in range(100):
            failed = number % 2
            features = {"limit": "all" if failed else "page", "task": "weekly"}
            event = {"endpoint": "execute_tool search", "success": not failed, "features": features}
            assert (await http.post("/event", json=event)).status_code == 200
        await cycle(running)
        returned = await asyncio.to_thread(run, f"http://127.0.0.1:{running.port}")
        assert returned == ["page", "too many"] * (TASKS // 2)
        await settled(running, 100 + TASKS)
        measured = (await http.get("/stats")).json()["advice"]["measured"]
    assert (measured["shown"]["tasks"], measured["shown"]["successes"]) == (TASKS // 2, TASKS // 2)
    assert (measured["withheld"]["tasks"], measured["withheld"]["successes"]) == (TASKS // 2, 0)


def test_without_an_observer_the_agent_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """No advice, and the same answers of its tool; no spans, as they would be sent again and again."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert run(DEAD) == ["too many"] * TASKS
