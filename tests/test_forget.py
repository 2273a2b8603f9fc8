"""A person can be forgotten: nothing in the folder names them, and all else is as it was."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sidecar import cli
from sidecar.commands.forget import UNKNOWN
from sidecar.store.checkpoint_copy import NAME, dumped
from sidecar.store.forgetting import Forgetting, tombstone
from sidecar.store.journal_file import TOMBSTONE, AppendFile, opened
from sidecar.store.segments import closed_segments, journal_span
from tests.observers import client, cycle, observer
from tests.test_replay import drop_all, live

STAFFER = "st-3"


def forget(tmp_path: Path, capsys: pytest.CaptureFixture[str], staffer: str = STAFFER, status: int = 0) -> str:
    assert cli.main(["forget", "--staffer", staffer, "--data-dir", str(tmp_path / "data")]) == status
    return capsys.readouterr().out


def naming(data: Path, staffer: str = STAFFER) -> list[str]:
    """Files that still have the id's bytes in them."""
    return sorted(path.name for path in data.rglob("*") if path.is_file() and staffer.encode() in path.read_bytes())


async def test_nothing_names_them_any_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Journals, what was kept aside, state, checkpoint and posts; offsets and other people's records stay."""
    await live(tmp_path, segment=3000)
    data = tmp_path / "data"
    (data / "ops.damaged").write_bytes(b'{"staffer_id":"st-3","x\n{"staffer_id":"st-31"\n')
    (data / "state.db.corrupt-17").write_bytes(b"\0\1st-3\2\3")
    span, sizes = journal_span(data / "ops.jsonl"), [each[:2] for each in closed_segments(data / "ops.jsonl")]
    others = json.loads(dumped(data / "state.db"))["incidents"]
    assert {"ops.damaged", "state.db", NAME, "state.db.corrupt-17"} <= set(naming(data))
    assert any(name.endswith(".jsonl") for name in naming(data))
    said = await asyncio.to_thread(forget, tmp_path, capsys)
    assert naming(data) == ["ops.damaged"]
    assert (data / "ops.damaged").read_bytes() == b'{"staffer_id":"st-31"\n'
    assert "removed 1 damaged" in said
    assert (journal_span(data / "ops.jsonl"), [each[:2] for each in closed_segments(data / "ops.jsonl")]) == (
        span,
        sizes,
    )
    assert "forgot st-3: " in said
    assert "not touched: the corrections file" in said
    assert "damaged records: 0" in said
    left = json.loads(dumped(data / "state.db"))["incidents"]
    by_staffer = [_staffers(rows) for rows in (others, left)]
    assert {name: n for name, n in by_staffer[0].items() if name != STAFFER} == by_staffer[1]
    async with observer(tmp_path) as running:
        assert running.checkpoint.damaged == 0
    assert naming(data) == ["ops.damaged"]


def _staffers(rows: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for key, row in rows.items():
        if key.startswith("incident/"):
            for name, count in row["row"]["incident"].get("by_staffer", {}).items():
                found[name] = found.get(name, 0) + count
    return found


async def test_posts_and_decisions_lose_the_name_and_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A diagnosis that names them says `****`; it is not made again, and its post is not doubled."""
    async with observer(tmp_path) as running, client(running) as http:
        for number in range(12):
            event = {"endpoint": "/a", "success": number > 3, "error": "no one is free", "staffer_id": f"st-{number}"}
            if number < 4:
                event["staffer_id"] = STAFFER
                event["input_summary"] = "asked by st-3, not by st-33"
            assert (await http.post("/event", json=event)).is_success
        await cycle(running)
    data = tmp_path / "data"
    assert "decisions.jsonl" in naming(data)
    await asyncio.to_thread(forget, tmp_path, capsys)
    assert b"st-33" in (data / "decisions.jsonl").read_bytes()
    lines = [opened(line) for line in (data / "decisions.jsonl").read_bytes().splitlines()]
    assert all(line is not None and b"by st-3," not in line for line in lines)
    with closing(sqlite3.connect(data / "state.db")) as connection:
        ((body,),) = connection.execute("SELECT body FROM outbox").fetchall()
    assert b"asked by ****, not by st-33" in body
    async with observer(tmp_path) as running:
        await cycle(running)
        assert running.analyzer.diagnoses == 0


async def test_an_interrupted_forgetting_is_finished_by_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a line was half overwritten: what is left of the id in it goes too."""
    await live(tmp_path, segment=3000, restarts=1)
    data = tmp_path / "data"
    path = closed_segments(data / "ops.jsonl")[0].path
    before = path.read_bytes()
    at = next(at for at, line in _lines(before) if b'"st-3"' in line)
    path.write_bytes(before[:at] + TOMBSTONE + before[at + len(TOMBSTONE) :])
    said = await asyncio.to_thread(forget, tmp_path, capsys)
    assert naming(data) == []
    assert "damaged records: 0" in said
    state = dumped(data / "state.db")
    said = await asyncio.to_thread(forget, tmp_path, capsys, STAFFER, UNKNOWN)
    assert "no record of st-3: nothing was removed" in said
    assert dumped(data / "state.db") == state


async def test_somebody_who_was_never_here_is_said_to_be_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a status of its own, for a slip of the pen must not pass for a removal; not a byte of the state changes."""
    async with observer(tmp_path) as running, client(running) as http:
        for number in range(40):
            event = {"endpoint": f"/e{number % 3}", "error": f"no seat on row {number} of two"}
            assert (await http.post("/event", json=event if number % 2 else {"success": True})).status_code == 200
        await cycle(running)
    data = tmp_path / "data"
    assert "no record of nobody" in await asyncio.to_thread(forget, tmp_path, capsys, "nobody", UNKNOWN)
    state = dumped(data / "state.db")
    assert "nothing was removed" in await asyncio.to_thread(forget, tmp_path, capsys, "nobody", UNKNOWN)
    assert dumped(data / "state.db") == state


async def test_a_rule_with_a_numeric_limit_is_no_record_of_anybody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The row of its endpoint, with its numbers, stays as it is."""
    numbers = [number * 7 % 20 for number in range(400)]
    events = [{"endpoint": "/t", "success": number <= 14, "features": {"n": number}} for number in numbers]
    async with observer(tmp_path) as running, client(running) as http:
        assert (await http.post("/events", json=events)).json()["accepted"] == 400
        await cycle(running)
    data = tmp_path / "data"
    state = dumped(data / "state.db")
    assert json.loads(state)["learning"]["rules//t"]["row"]["borders"]
    assert "no record of nobody" in await asyncio.to_thread(forget, tmp_path, capsys, "nobody", UNKNOWN)
    assert dumped(data / "state.db") == state


async def test_what_is_counted_falls_and_that_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever compares reports has to know; what was never theirs stays as it was."""
    async with observer(tmp_path) as running, client(running) as http:
        for number in range(20):
            event = {"endpoint": "/e", "error": "no seat left", "staffer_id": f"st-{3 + number % 2}"}
            assert (await http.post("/event", json=event)).is_success
        await cycle(running)
    said = await asyncio.to_thread(forget, tmp_path, capsys)
    assert "forgot st-3: 10 operations" in said
    assert "effects are counted anew without them, so figures of earlier reports change" in said
    tables = json.loads(dumped(tmp_path / "data" / "state.db"))
    assert tables["operations"]["total"]["row"] == {"operations": 10}
    (incident,) = [row["row"]["incident"] for key, row in tables["incidents"].items() if key.startswith("incident/")]
    assert incident["count"] == 10
    assert "counted anew" not in await asyncio.to_thread(forget, tmp_path, capsys, STAFFER, UNKNOWN)


@pytest.mark.parametrize("are_gone", [False, True])
async def test_an_unknown_person_has_no_share_in_what_counts_had_no_room_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], are_gone: bool
) -> None:
    """Where an op has more fields than are counted, the staffer may be among the rest: but only one who is known."""
    event = {"endpoint": "/many", "success": True, "features": {f"f{number}": f"v{number}" for number in range(200)}}
    async with (
        observer(tmp_path, open_file=partial(AppendFile, segment_bytes=4000)) as running,
        client(running) as http,
    ):
        for staffer in (None, "co-1"):
            known = {"staffer_id": staffer} if staffer else {}
            assert (await http.post("/event", json={**event, **known})).is_success
        await cycle(running)
        if are_gone:
            await drop_all(running)
    data = tmp_path / "data"
    assert (journal_span(data / "ops.jsonl")[0] > 0) is are_gone
    state = dumped(data / "state.db")
    assert "endpoint//many" in json.loads(state)["incidents"]
    assert "no record of nope" in await asyncio.to_thread(forget, tmp_path, capsys, "nope", UNKNOWN)
    assert dumped(data / "state.db") == state
    if not are_gone:
        assert "forgot co-1: 1 operations" in await asyncio.to_thread(forget, tmp_path, capsys, "co-1")


def _lines(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    for line in data.splitlines(keepends=True):
        found.append((at, line))
        at += len(line)
    return found


def test_whoever_was_never_here_leaves_all_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids that are words of the format harm nothing; an empty one is refused."""
    data = tmp_path / "data"
    data.mkdir()
    line = b'{"timestamp":"t","endpoint":"/a","input_summary":"","success":false,"duration_ms":1,"output_summary":""}\n'
    (data / "ops.jsonl").write_bytes(line)
    for staffer in ("endpoint", "nobody", '"', "\\", "staffer_id"):
        forget(tmp_path, capsys, staffer, UNKNOWN)
        assert (data / "ops.jsonl").read_bytes() == line
    assert cli.main(["forget", "--staffer", "", "--data-dir", str(data)]) == 64


def test_a_feature_names_its_staffer_too(tmp_path: Path) -> None:
    """An op that has the id among its features or extra fields is theirs."""
    op = b'{"timestamp":"t","endpoint":"/a","input_summary":"","success":true,"duration_ms":1,"output_summary":"",'
    line = op + b'"features":{"staffer_id":"caf\xc3\xa9"}}\n'
    other = op + b'"features":{"x":"caf\xc3\xa9 noir"}}\n'
    (tmp_path / "ops.jsonl").write_bytes(line + other)
    forgetting = Forgetting(tmp_path, "café")
    forgetting.run()
    assert (tmp_path / "ops.jsonl").read_bytes() == tombstone(len(line)) + other.replace(b"caf\xc3\xa9", b"*****")
    assert (forgetting.forgotten.lines, forgetting.forgotten.masked) == (1, 1)


def test_a_damaged_state_goes_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody can say what else is in it, and it is made again from the journals."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("state.db", NAME, "state.db.corrupt-17"):
        (data / name).write_bytes(b"st-3 " * 500)
    assert "removed 3 damaged" in forget(tmp_path, capsys)
    assert naming(data) == []
    assert sorted(path.name for path in data.glob("*.db*")) == ["state.db"]


@hypothesis_settings(deadline=None)
@given(st.integers(29, 400))
def test_a_tombstone_has_the_length_that_it_needs(size: int) -> None:
    """And a checksum that fits."""
    line = tombstone(size)
    assert len(line) == size
    assert opened(line[:-1]) is not None
