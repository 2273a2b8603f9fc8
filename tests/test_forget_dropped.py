"""A person can be forgotten of whom segments are gone: what the state and its copy have of them goes too."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Any

from sidecar import cli
from sidecar.commands.forget import UNKNOWN
from sidecar.pipeline.observer import Observer
from sidecar.store.checkpoint_copy import NAME, dumped
from sidecar.store.journal_file import AppendFile
from sidecar.store.segments import journal_span
from tests.observers import client, cycle, observer, says, stand_in
from tests.test_replay import drop_all

STAFFER = "st-17"
NAMED = ("st-17", "Augusta", "Lovelace", "lovelace@", "Countess", "engine", "5550001234", "t-ada")
"""What tells of the person: nothing else in these tests has these bytes.

Each is too long to come up in the checksums of a saved sheet, which are random and kept as base64.
"""


def theirs(number: int) -> dict[str, Any]:
    """Calls that name them in texts, features, the path and the task; every third fails."""
    return {
        "endpoint": ["/staff/st-17", "/fill", "/pay"][number % 3],
        "success": number % 4 > 0,
        "duration_ms": 10,
        "staffer_id": STAFFER,
        "task": f"t-ada-{number}",
        "input_summary": f"Augusta Lovelace wants the engine {number}",
        "output_summary": "given to Countess",
        "error": "Augusta Lovelace has 3 licences" if number % 8 else "no seat is free",
        "features": {
            "customer": "Augusta Lovelace",
            "phone": 5550001234,
            "mail": "a.lovelace@engine.org",
            "zone": "north",
        },
        "nickname": "Countess",
    }


def others(number: int) -> dict[str, Any]:
    return {
        "endpoint": ["/fill", "/pay"][number % 2],
        "success": number % 4 > 0,
        "duration_ms": 10,
        "staffer_id": f"co-{number % 5}",
        "task": f"t-{number}",
        "input_summary": f"Charles wants wheels {number}",
        "error": "no seat is free",
        "features": {"customer": f"Charles {number % 5}", "zone": "north"},
    }


async def post(running: Observer, batch: list[dict[str, Any]]) -> None:
    async with client(running) as http:
        assert (await http.post("/events", json=batch)).is_success


async def life(tmp_path: Path, *, said: str, theirs_since: int = 0) -> None:
    """They work, a copy is made, and segments go; then others work on, saying *said*, and they perhaps too."""
    async with stand_in() as gateway:
        gateway.answers["/ai/generate"] = says({"text": "Augusta Lovelace asks for the engine without a licence."})
        gateway.answers["/log"] = says({}, 503)
        models = {"LAKEHOUSE_URL": gateway.url, "GATEWAY_URL": gateway.url}
        async with observer(tmp_path, open_file=partial(AppendFile, segment_bytes=4000), **models) as running:
            for number in range(0, 120, 60):
                await post(running, [make(each) for each in range(number, number + 60) for make in (theirs, others)])
                await cycle(running)
            await post(running, [others(each) for each in range(10)])  # what is written last stays
            await drop_all(running)
        assert journal_span(tmp_path / "data" / "ops.jsonl")[0] > 0
        async with observer(tmp_path, **models) as running:
            await post(running, [{**others(each), "output_summary": said} for each in range(700)])
            if theirs_since:
                await post(running, [theirs(each) for each in range(120, 120 + theirs_since)])
            await cycle(running)


def naming(data: Path) -> dict[str, list[str]]:
    """What tells of them, by file."""
    files = [path for path in sorted(data.rglob("*")) if path.is_file()]
    found = {path.name: [each for each in NAMED if each.encode() in path.read_bytes()] for path in files}
    return {name: each for name, each in found.items() if each}


async def forget(tmp_path: Path, *statuses: int) -> None:
    command = ["forget", "--staffer", STAFFER, "--data-dir", str(tmp_path / "data")]
    assert await asyncio.to_thread(cli.main, command) in (0, *statuses)


async def test_no_byte_of_the_folder_tells_of_them(tmp_path: Path) -> None:
    """Neither rows nor keys nor free pages, decisions nor posts, and what others did stays."""
    await life(tmp_path, said="wheels", theirs_since=20)
    data = tmp_path / "data"
    before = json.loads(dumped(data / "state.db"))
    assert {"state.db", NAME, "decisions.jsonl"} <= set(naming(data))
    await forget(tmp_path)
    assert naming(data) == {}
    after = json.loads(dumped(data / "state.db"))
    successes = [state["successes"]["success//pay"]["row"]["successes"] for state in (before, after)]
    assert 0 < successes[0] - successes[1] < 20
    endpoint = after["incidents"]["endpoint//pay"]["row"]["successes"]["values"]
    assert {"co-1", "co-3"} <= set(endpoint["staffer_id"])
    assert endpoint["zone"]["north"] > 250
    assert "Charles 1" in endpoint["customer"]
    columns = after["learning"]["rules//fill"]["row"]["sheet"]["fields"]
    assert "north" in columns["zone"]["values"]
    assert "co-2" in columns["staffer_id"]["values"]
    messages = [row["row"]["incident"]["message"] for key, row in after["incidents"].items() if key[:9] == "incident/"]
    assert set(messages) == {"no seat is free"}


async def test_so_it_is_where_no_op_of_theirs_is_known_any_more(tmp_path: Path) -> None:
    """Counts alone tell what may be theirs. None of it comes back, and a second forgetting changes nothing."""
    await life(tmp_path, said="wheels " * 1000)
    data = tmp_path / "data"
    assert {"state.db", NAME, "decisions.jsonl"} <= set(naming(data))
    for path in data.glob("checkpoint.db*"):  # it has their last ops
        path.unlink()
    async with observer(tmp_path) as running:
        await running.checkpoint._state.copy_to(data / NAME)
    await forget(tmp_path)
    assert naming(data) == {}
    state, copy = dumped(data / "state.db"), dumped(data / NAME)
    await forget(tmp_path, UNKNOWN)
    assert (dumped(data / "state.db"), dumped(data / NAME)) == (state, copy)
    async with observer(tmp_path) as running, client(running) as http:
        await cycle(running)
        for door in ("/incidents", "/playbooks", "/corrections"):
            assert [each for each in NAMED if each in (await http.get(door)).text] == []
    assert naming(data) == {}
