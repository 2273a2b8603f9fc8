"""A replay comes to the state that the live run had, byte for byte: it asks no model, draws no coin, posts nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sidecar import cli
from sidecar.pipeline.observer import Observer
from sidecar.store.checkpoint_copy import NAME, dumped
from sidecar.store.journal_file import AppendFile, sealed
from sidecar.store.segments import closed_segments, journal_span
from tests.observers import client, cycle, observer, says, stand_in

OPS, DECISIONS = "ops.jsonl", "decisions.jsonl"


def events(first: int, count: int) -> list[dict[str, Any]]:
    """Of several endpoints, some failing, some repeated, some with features."""
    return [
        {
            "event_id": f"e-{number - number % 7 % 2}",
            "timestamp": "2026-01-31T08:15:00.000Z",
            "endpoint": f"/tools/{number % 5}",
            "success": number % 3 > 0,
            "error": f"no seat on HAT{number % 3:03}",
            "duration_ms": number * 1.1,
            "staffer_id": f"st-{number % 4}",
            "features": {"city": ["Reno", "Zürich"][number % 2], "price": number / 8},
        }
        for number in range(first, first + count)
    ]


async def post(running: Observer, batch: list[dict[str, Any]]) -> None:
    async with client(running) as http:
        assert (await http.post("/events", json=batch)).is_success


async def live(tmp_path: Path, *, segment: int = 10**9, restarts: int = 3) -> None:
    """A life with restarts, a model, diagnoses, playbooks, corrections and repeated events."""
    open_file = partial(AppendFile, segment_bytes=segment)
    async with stand_in() as gateway:
        gateway.answers["/ai/generate"] = says({"text": "Seats are gone. Book earlier."})
        for life in range(restarts):
            with (tmp_path / "corrections.jsonl").open("a") as file:
                file.write(json.dumps({"task_class": "staffing.fill", "correction": f"advice {life}"}) + "\n")
            async with observer(
                tmp_path, open_file=open_file, GATEWAY_URL=gateway.url, LAKEHOUSE_URL=gateway.url
            ) as running:
                for number in range(6):
                    await post(running, events(100 * life + 20 * number, 30))
                    await cycle(running)
                assert running.books.decided.failures == 0
                if life == 1:
                    await drop_all(running)


async def drop_all(running: Observer) -> None:
    """Every closed segment goes, as if it were old."""
    running.retention._max_age_s = 0.0
    for journal in running.retention.journals:
        for segment in closed_segments(journal.active):
            os.utime(segment.path, (0, 0))
    await running.retention.enforce()
    running.retention._max_age_s = None


def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[bytes, str]:
    """What the state is after `observer replay`, and what that printed."""
    dump = tmp_path / "dump.json"
    assert cli.main(["replay", "--data-dir", str(tmp_path / "data"), "--dump", str(dump)]) == 0
    assert dump.stat().st_mode & 0o777 == 0o600
    return dump.read_bytes(), capsys.readouterr().out


def rows(tmp_path: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(tmp_path / "data" / "state.db")) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


def in_thread(work: Any, *args: Any) -> Any:
    return asyncio.to_thread(work, *args)


async def test_the_state_is_that_of_the_live_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over restarts, with diagnoses and playbooks among the ops; the outbox and other cursors stay."""
    await live(tmp_path)
    before, posts = dumped(tmp_path / "data" / "state.db"), rows(tmp_path, "outbox")
    state = json.loads(before)
    assert len(posts) > 10
    assert any("diagnosis" in row["row"]["incident"] for key, row in state["incidents"].items() if key[0] == "i")
    assert any(key.startswith("entry/") for key in state["learning"])
    after, said = await in_thread(replay, tmp_path, capsys)
    assert after == before
    assert (rows(tmp_path, "outbox"), "from the journals alone" in said, "damaged records: 0" in said) == (
        posts,
        True,
        True,
    )


async def test_so_it_is_across_dropped_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint has what went; the journals have the rest."""
    await live(tmp_path, segment=3000)
    assert journal_span(tmp_path / "data" / OPS)[0] > 0
    assert journal_span(tmp_path / "data" / DECISIONS)[0] > 0
    before = dumped(tmp_path / "data" / "state.db")
    after, said = await in_thread(replay, tmp_path, capsys)
    assert after == before
    assert "from the checkpoint and the journals behind it" in said


@pytest.mark.parametrize("lose", ["gone", "corrupt", "copy only"])
async def test_a_lost_state_is_had_from_the_checkpoint_at_the_next_start(tmp_path: Path, lose: str) -> None:
    """Missing, or damaged and set aside: the state is the same again, and nothing is recorded or read twice."""
    await live(tmp_path, segment=3000)
    data = tmp_path / "data"
    before = json.loads(dumped(data / "state.db"))
    ops = journal_span(data / OPS)[1]
    for path in data.glob("state.db*"):
        path.unlink()
    if lose == "corrupt":
        (data / "state.db").write_bytes(b"no database" * 1000)
    async with observer(tmp_path) as running:
        await running.cycle.run_once()
        assert running.corrections.recorded == 0
    after = json.loads(dumped(data / "state.db"))
    assert journal_span(data / OPS)[1] == ops
    assert {**after, "cursors": 0} == {**before, "cursors": 0}


async def test_a_crash_between_copy_and_drop_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy is there and the segments too: a replay reads all of them, a lost state begins at the copy."""
    await live(tmp_path, segment=3000, restarts=1)
    data = tmp_path / "data"
    before = dumped(data / "state.db")
    async with observer(tmp_path) as running:
        await running.checkpoint._state.copy_to(data / NAME)
    assert (await in_thread(replay, tmp_path, capsys))[0] == before
    for path in data.glob("state.db*"):
        path.unlink()
    async with observer(tmp_path):
        pass
    assert dumped(data / "state.db") == before


async def test_a_journal_behind_the_copy_is_read_from_its_oldest_segment(tmp_path: Path) -> None:
    """Lines that the copy counts are gone from the journal: what is left is the truth."""
    await live(tmp_path, segment=3000)
    data = tmp_path / "data"
    first = journal_span(data / OPS)[0]
    for segment in closed_segments(data / OPS)[1:]:
        segment.path.unlink()
    (data / OPS).write_bytes(b"")
    end = journal_span(data / OPS)[1]
    async with observer(tmp_path) as running:
        left = sum(row.count for row in running.books.incidents.incidents())
    assert (first, left) < (end, 200)
    assert left > 0


def test_damage_costs_the_damaged_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are counted in the summary, kept aside and passed over; a torn tail is mended."""
    data = tmp_path / "data"
    data.mkdir()
    op = b'{"timestamp":"2026-01-31T08:15:00.000Z","endpoint":"/a","input_summary":"","success":false,'
    op += b'"duration_ms":1,"output_summary":"","error":"caf\xc3\xa9"}'
    (data / OPS).write_bytes(sealed(op) + sealed(op).replace(b"/a", b"/b") + sealed(op) + op[: op.index(b"\xa9")])
    state, said = replay(tmp_path, capsys)
    (incident,) = (row for key, row in json.loads(state)["incidents"].items() if key.startswith("incident/"))
    assert incident["row"]["incident"]["count"] == 2
    assert "replayed 2 operations and 0 decisions" in said
    assert "damaged records: 1" in said
    assert (data / "ops.damaged").read_bytes().count(b"\n") == 2
    assert replay(tmp_path, capsys)[0] == state


async def test_a_running_observer_is_not_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is its own: the command says whose it is, and fails; so does one for a folder that is not there."""
    async with observer(tmp_path):
        for command in (["replay"], ["forget", "--staffer", "st-1"]):
            assert await in_thread(cli.main, [*command, "--data-dir", str(tmp_path / "data")]) == 1
            assert f"is in use: another observer (pid {os.getpid()}) holds" in capsys.readouterr().err
    assert cli.main(["replay", "--data-dir", str(tmp_path / "nowhere")]) == 1
    assert "nowhere is not there" in capsys.readouterr().err


async def test_a_checkpoint_waits_for_the_posts_that_it_covers(tmp_path: Path) -> None:
    """A diagnosis takes effect when it is in the journal; a save that would hide it from a restart puts its post."""
    async with observer(tmp_path) as running:
        await post(running, events(0, 9))
        await running.analyzer.analyze()
        assert running.books.incidents.due() == []
        assert rows(tmp_path, "outbox") == []
        await running.checkpoint.save()
        assert len(rows(tmp_path, "outbox")) == 1


async def test_the_folder_stays_within_its_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More is written than the journal may keep: the oldest segments go, and everything stays counted."""
    env = {"OBSERVER_DATA_MAX_BYTES": str(2**24)}
    async with observer(tmp_path, **env) as running:
        for number in range(12):
            batch = [{**event, "x": "y" * 50_000} for event in events(20 * number, 20)]
            await post(running, [{**event, "event_id": None} for event in batch])
            await running.retention.enforce()
        assert 0 < running.retention.journals[0].bytes <= 2**23
        assert running.retention.journals[0].dropped >= 3
        dropped = running.retention.journals[0].dropped
        async with client(running) as http:
            metrics = (await http.get("/metrics")).text
        told = re.search(r'^observer_journal_dropped\w*{.*journal="ops".*} (\d+)\.0$', metrics, re.MULTILINE)
        assert told is not None
        assert dropped <= int(told[1]) <= running.retention.journals[0].dropped  # it goes on by itself meanwhile
        assert sum(row.count for row in running.books.incidents.incidents()) == 80
    before = dumped(tmp_path / "data" / "state.db")
    assert (await in_thread(replay, tmp_path, capsys))[0] == before
