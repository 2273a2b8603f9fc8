"""What a Langfuse server shows is older at times than what is known: the verdict that was given last stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.langfuse_batches import INGESTION
from tests.langfuse_server import Store, given_score, langfuse_server, observation
from tests.observers import client, observer
from tests.test_langfuse_doors import ops, written
from tests.test_langfuse_poller import ago, env, filled


async def test_a_pulled_score_may_return_to_what_it_said_before(tmp_path: Path) -> None:
    """The server shows the last word alone; each change has a time of its own, and is pulled once."""
    store = filled(1)
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running, client(running) as http:
        for number, value in enumerate((False, True, False)):
            changed = ago(4 - number)
            store.given_scores = [given_score(1, ago(5), of=1, value=value, updatedAt=changed)]
            await running.cycle.run_once()
            await running.cycle.run_once()
        await written(running, tmp_path, 4)
        assert (await http.get("/stats")).json()["langfuse"]["judged"] == 3
    assert [op["success"] for op in ops(tmp_path)] == [True, False, True, False]


async def test_a_page_that_lags_takes_back_no_verdict(tmp_path: Path) -> None:
    """What our endpoint was told is shown by the server with times of its own, and late; the change stays."""
    store = filled(1)
    given, bad, bad_there, good, good_there = map(ago, (9, 8, 7, 4, 3))
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running, client(running) as http:
        await running.cycle.run_once()
        for value, told in ((False, bad), (True, good)):
            body = given_score(1, given, of=1, value=value)
            event = {"id": f"{value}", "type": "score-create", "timestamp": told, "body": body}
            assert (await http.post(INGESTION, json={"batch": [event]})).status_code == 207
        for value, changed in ((False, bad_there), (True, good_there)) * 2:
            store.given_scores = [given_score(1, given, of=1, value=value, updatedAt=changed)]
            await running.cycle.run_once()
        stats = (await http.get("/stats")).json()
        assert (stats["failures"], stats["langfuse"]["judged"], stats["langfuse"]["pull"]["scores"]) == (0, 2, 4)
    assert [op["success"] for op in ops(tmp_path)] == [True, False, True]


@pytest.mark.parametrize("is_late", [False, True], ids=["one page", "a later page"])
async def test_of_scores_of_one_name_the_one_told_last_counts(tmp_path: Path, is_late: bool) -> None:
    """A server lists the newest first, and two may judge the same: an older verdict that comes after is none."""
    store = filled(1)
    older, newer = ago(9), ago(5)
    for number, (told, value) in enumerate(((newer, True), (older, False)), 1):
        store.given_scores.append(given_score(number, told, of=1, value=value))
    kept = store.given_scores[:1] if is_late else store.given_scores
    held = [each for each in store.given_scores if each not in kept]
    store.given_scores = list(kept)
    async with langfuse_server(store) as server:
        for _ in range(2):
            async with observer(tmp_path, **env(server)) as running, client(running) as http:
                await running.cycle.run_once()
                await written(running, tmp_path, 2)
                assert (await http.get("/stats")).json()["failures"] == 0
            store.given_scores += held
            held = []
    assert [op["success"] for op in ops(tmp_path)] == [True, True]


async def test_a_row_that_lags_behind_what_was_told_takes_no_failure_back(tmp_path: Path) -> None:
    """A server shows late what our endpoint was told; what it knows of later is news."""
    begin, end, end_there, failed, failed_there, last = map(ago, (12, 10, 9, 6, 5, 3))
    row = observation(1, begin, endTime=end)
    bad = {"level": "ERROR", "statusMessage": "not who was asked for"}
    tool = {each: row[each] for each in ("id", "traceId", "name", "startTime", "endTime")}
    store = Store()
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running, client(running) as http:
        for told, more in ((end, {}), (failed, bad)):
            event = {"id": told, "type": "tool-create", "timestamp": told, "body": {**tool, **more}}
            assert (await http.post(INGESTION, json={"batch": [event]})).status_code == 207
        outcomes = []
        for changed, more in ((end_there, {}), (failed_there, bad), (end_there, {}), (last, {})):
            store.observations = [{**row, **more, "updatedAt": changed}]
            await running.cycle.run_once()
            outcomes.append((await http.get("/stats")).json()["failures"])
    assert outcomes == [1, 1, 1, 0]
    assert [op["success"] for op in ops(tmp_path)] == [True, False, True]


@pytest.mark.parametrize("ahead_s", [0, 60], ids=["right", "ahead"])
async def test_a_fast_clock_of_a_sender_hides_no_failure_of_the_server(tmp_path: Path, ahead_s: int) -> None:
    """What was told by a clock that is ahead was told when it came: a later row of the server still counts."""
    begin, end, last = map(ago, (12, 10, -1))
    row = observation(1, begin, endTime=end)
    tool = {name: row[name] for name in ("id", "traceId", "name", "startTime", "endTime")}
    store = Store()
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running, client(running) as http:
        event = {"id": "a", "type": "tool-create", "timestamp": ago(10 - ahead_s), "body": tool}
        assert (await http.post(INGESTION, json={"batch": [event]})).status_code == 207
        store.observations = [{**row, "level": "ERROR", "statusMessage": "bad", "updatedAt": last}]
        await running.cycle.run_once()
        assert (await http.get("/stats")).json()["failures"] == 1
