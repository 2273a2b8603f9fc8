"""An event sent again is acknowledged and not recorded again: at each door, at once, later, after a restart or kill."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.pipeline.observer import Observer
from tests.observers import FaultyFile, client, journal, observer
from tests.processes import running_observer

EVENT = {"event_id": "e-1", "endpoint": "/fill", "success": True, "features": {"a": 1, "b": 2.0}, "more": [1, 2]}


def ids(tmp_path: Path) -> list[str | None]:
    return [line.get("event_id") for line in journal(tmp_path)]


async def post(running: Observer, event: dict[str, Any], **headers: str) -> httpx.Response:
    async with client(running) as http:
        return await http.post("/event", json=event, headers=headers)


async def until(reached: Callable[[], bool]) -> None:
    """Let the others run until *reached*; the doors have no event for it."""
    while not reached():  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)


def metric(text: str, name: str) -> list[str]:
    return [line.split()[-1] for line in text.splitlines() if line.startswith(name)]


async def test_a_repeated_event_gets_the_first_answer(tmp_path: Path) -> None:
    """The same span's ids, and nothing is counted or written again."""
    async with observer(tmp_path) as running:
        first = await post(running, EVENT)
        again = await post(running, EVENT)
        assert (first.status_code, again.status_code) == (200, 200)
        assert first.json() == again.json()
        assert (len(running.ring), running.intake.accepted, running.intake.repeats) == (1, 1, 1)
        async with client(running) as http:
            text = (await http.get("/metrics")).text
    assert ids(tmp_path) == ["e-1"]
    assert metric(text, "observer_events_duplicates_total") == ["1.0"]
    assert metric(text, "observer_events_ids") == ["1.0"]


@pytest.mark.parametrize(
    "again",
    [
        {**EVENT, "features": {"b": 2.0, "a": 1}},
        {**EVENT, "success": "true"},
        {**EVENT, "trace_id": "0af7651916cd43dd8448eb211c80319c"},
        {**EVENT, "role": None},
    ],
)
async def test_what_is_the_same_once_normalised_is_a_repetition(tmp_path: Path, again: dict[str, Any]) -> None:
    """Order of fields, spelling and trace context are no part of the payload."""
    async with observer(tmp_path) as running:
        assert (await post(running, EVENT)).json() == (await post(running, again)).json()
    assert ids(tmp_path) == ["e-1"]


async def test_another_payload_under_a_known_id_is_a_conflict(tmp_path: Path) -> None:
    """409 says what, why and what to do; the first stays."""
    async with observer(tmp_path) as running:
        await post(running, EVENT)
        answer = await post(running, {**EVENT, "success": False})
        assert answer.status_code == 409
        assert answer.json() == {
            "error": "the event id 'e-1' is known with another payload: each id names one event, and the first one "
            "with it is kept. Repeat an event unchanged, or give a new one an id of its own"
        }
        assert (running.intake.conflicts, running.intake.accepted) == (1, 1)
    assert [line["success"] for line in journal(tmp_path)] == [True]


async def test_a_timestamp_that_was_given_is_payload(tmp_path: Path) -> None:
    """Without one a retry is alike whenever it comes; with another it is another event."""
    stamped = {**EVENT, "timestamp": "2026-01-31T08:15:00.000Z"}
    async with observer(tmp_path) as running:
        answers = [await post(running, event) for event in (stamped, stamped, EVENT)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert (await post(running, {**EVENT, "timestamp": "2026-01-31T08:15:00.001Z"})).status_code == 409
    assert len(journal(tmp_path)) == 1


async def test_the_header_is_the_id_of_an_event_without_one(tmp_path: Path) -> None:
    """One space of ids: what the header named the field may name; quotes as in the IETF draft are no part of it."""
    bare = {name: value for name, value in EVENT.items() if name != "event_id"}
    async with observer(tmp_path) as running:
        first = await post(running, bare, **{"Idempotency-Key": "k-1"})
        for answer in (
            await post(running, bare, **{"Idempotency-Key": '"k-1"'}),
            await post(running, {**bare, "event_id": "k-1"}),
            await post(running, {**bare, "event_id": None}, **{"Idempotency-Key": "k-1"}),
            await post(running, {**bare, "event_id": "k-1"}, **{"Idempotency-Key": "k-2"}),
        ):
            assert answer.json() == first.json()
        assert (await post(running, {**bare, "event_id": "k-2"})).json() != first.json()
    assert ids(tmp_path) == ["k-1", "k-2"]


async def test_events_without_an_id_are_never_alike(tmp_path: Path) -> None:
    """Nor are those whose ids the redaction made alike."""
    async with observer(tmp_path) as running:
        for event_id in (None, None, "", "", "Bearer abcdefghijklmnop", "Bearer ponmlkjihgfedcba"):
            assert (await post(running, {"event_id": event_id, "success": True})).is_success
    assert len(journal(tmp_path)) == 6


async def test_in_a_batch_repetitions_are_accepted_and_conflicts_rejected(tmp_path: Path) -> None:
    """By index, and within the batch too."""
    batch = [EVENT, EVENT, {"event_id": "e-2"}, {**EVENT, "endpoint": "/other"}]
    async with observer(tmp_path) as running, client(running) as http:
        for _ in range(2):
            answer = (await http.post("/events", json=batch)).json()
            assert answer["accepted"] == 3
            assert [rejected["index"] for rejected in answer["rejected"]] == [3]
            assert "known with another payload" in answer["rejected"][0]["error"]
        assert (running.intake.accepted, running.intake.repeats) == (2, 4)
    assert ids(tmp_path) == ["e-1", "e-2"]


async def test_retries_during_the_first_attempt_await_its_receipt(tmp_path: Path) -> None:
    """None is answered before the line is written, and all get the same answer."""
    file = FaultyFile.fresh()
    async with observer(tmp_path, open_file=file) as running:
        file.open_gate.clear()
        tries = [asyncio.create_task(post(running, EVENT)) for _ in range(8)]
        await until(lambda: running.intake.repeats == 7)
        conflict = await post(running, {**EVENT, "role": "welder"})
        assert not any(one.done() for one in tries)
        file.open_gate.set()
        answers = [await one for one in tries]
    assert conflict.status_code == 409
    assert [answer.json() for answer in answers] == [answers[0].json()] * 8
    assert ids(tmp_path) == ["e-1"]


async def test_a_failed_attempt_frees_its_id(tmp_path: Path) -> None:
    """Who waits with it fails alike; the next one is the first, whatever its payload."""
    file = FaultyFile.fresh()
    async with observer(tmp_path, open_file=file) as running:
        file.open_gate.clear()
        tries = [asyncio.create_task(post(running, EVENT)) for _ in range(3)]
        await until(lambda: running.intake.repeats == 2)
        file.failure = OSError(errno.ENOSPC, "no space left on device")
        file.open_gate.set()
        assert [(await one).status_code for one in tries] == [503] * 3
        file.failure = None
        assert (await post(running, {**EVENT, "success": False})).status_code == 200
        assert (await post(running, EVENT)).status_code == 409
    assert [line["success"] for line in journal(tmp_path)] == [False]


@pytest.mark.parametrize("saved", [True, False])
async def test_ids_are_known_after_a_restart(tmp_path: Path, saved: bool) -> None:
    """From the checkpoint, or from the journal where the state is lost; with the first span's ids."""
    async with observer(tmp_path) as running:
        first = await post(running, EVENT)
        header = await post(running, {"success": True}, **{"Idempotency-Key": "k-1"})
    if not saved:
        for path in (tmp_path / "data").glob("state.db*"):
            path.unlink()
    async with observer(tmp_path) as running:
        again = await post(running, EVENT)
        assert again.json() == {**first.json(), "ring_size": 2}
        again = await post(running, {"success": True}, **{"Idempotency-Key": "k-1"})
        assert again.json() == header.json()
        assert (await post(running, {**EVENT, "endpoint": "/other"})).status_code == 409
    assert ids(tmp_path) == ["e-1", "k-1"]


def test_a_kill_forgets_no_acknowledged_id(tmp_path: Path) -> None:
    """Killed between saves of the checkpoint, three times: whatever was acknowledged is only repeated after it."""
    spans: dict[str, str] = {}
    for round_number in range(3):
        with (
            running_observer(tmp_path, OBSERVER_CYCLE="0.1") as process,
            httpx.Client(trust_env=False, timeout=30) as http,
        ):
            for number in range(60):
                event = {"event_id": f"{round_number}-{number}", "error": "no one is free", "count": number}
                answer = http.post(f"{process.url}/event", json=event)
                spans[json.dumps(event)] = answer.json()["span_id"]
            process.kill()
    with running_observer(tmp_path) as process, httpx.Client(trust_env=False, timeout=30) as http:
        for event_text, span_id in spans.items():
            assert http.post(f"{process.url}/event", content=event_text).json()["span_id"] == span_id
    assert ids(tmp_path) == [json.loads(event_text)["event_id"] for event_text in spans]
