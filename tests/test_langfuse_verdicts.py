"""What a Langfuse server shows is older at times than what is known: the verdict that was given last stays."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar import cli
from sidecar.store.checkpoint_copy import dumped
from tests.langfuse_batches import INGESTION
from tests.langfuse_server import Store, given_score, langfuse_server, observation
from tests.observers import client, observer, says, settled, stand_in
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


BAD = {"level": "ERROR", "statusMessage": "not who was asked for"}


def row_of(at: list[str], changed: int | None, **more: Any) -> dict[str, Any]:
    """A row of the one observation, changed so many seconds ago by the times *at*; None: it does not tell."""
    row = observation(1, at[32], endTime=at[30], **more)
    return row if changed is None else {**row, "updatedAt": at[changed]}


def seconds_ago() -> list[str]:
    """The moment, and those of the seconds before it, all as of now."""
    return [ago(number) for number in range(40)]


async def test_a_replica_that_lags_takes_no_failure_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the server alone told has its time too: kept over a restart, and a replay comes to the same."""
    at = seconds_ago()
    good, bad = row_of(at, 20), row_of(at, 10, **BAD)
    store = Store()
    async with langfuse_server(store) as server:
        for pages in ((good, bad, good, bad), (good, bad)):
            async with observer(tmp_path, **env(server)) as running, client(running) as http:
                for page in pages:
                    store.observations = [page]
                    await running.cycle.run_once()
                assert (await http.get("/stats")).json()["langfuse"]["pull"]["observations"] == len(pages)
    assert [op["success"] for op in ops(tmp_path)] == [True, False]
    before, dump = dumped(tmp_path / "data" / "state.db"), tmp_path / "dump.json"
    arguments = ["replay", "--data-dir", str(tmp_path / "data"), "--dump", str(dump)]
    assert await asyncio.to_thread(cli.main, arguments) == 0
    capsys.readouterr()
    assert dump.read_bytes() == before
    assert [key.partition("/")[0] for key in json.loads(before)["langfuse"]] == ["done"]


async def test_a_first_row_is_not_taken_back_by_one_that_lags(tmp_path: Path) -> None:
    """An observation that is shown as a failure at once, then as it was before; what is later is news."""
    at = seconds_ago()
    store = Store()
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running:
        for page in (row_of(at, 10, **BAD), row_of(at, 20), row_of(at, 10, **BAD), row_of(at, 5)):
            store.observations = [page]
            await running.cycle.run_once()
    assert [op["success"] for op in ops(tmp_path)] == [False, True]


async def test_rows_that_tell_no_time_count_as_they_are_read(tmp_path: Path) -> None:
    """Nobody can know which of two is older: the last page that was read counts."""
    at = seconds_ago()
    store = Store()
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running:
        for page in (row_of(at, None, **BAD), row_of(at, None), row_of(at, None, **BAD)):
            store.observations = [page]
            await running.cycle.run_once()
    assert [op["success"] for op in ops(tmp_path)] == [False, True, False]


async def test_what_a_server_knows_and_what_is_told_here_merge_by_field(tmp_path: Path) -> None:
    """An update that says nothing of the outcome neither hides the server's verdict nor takes it back."""
    at = seconds_ago()
    same = row_of(at, None)
    store, outcomes = Store(), []
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running, client(running) as http:

        async def tell(told: int, **more: Any) -> None:
            body = {name: same[name] for name in ("id", "traceId", "name", "startTime")} | more
            event = {"id": f"{told}", "type": "tool-create", "timestamp": at[told], "body": body}
            assert (await http.post(INGESTION, json={"batch": [event]})).status_code == 207
            outcomes.append((await http.get("/stats")).json()["failures"])

        async def pull(changed: int) -> None:
            store.observations = [row_of(at, changed, **BAD)]
            await running.cycle.run_once()
            outcomes.append((await http.get("/stats")).json()["failures"])

        await tell(28, endTime=at[30])
        await tell(15, output="4 workers")
        await pull(20)  # older than the output, but nothing later was told of the outcome
        await tell(10, output="5 workers")
        await tell(8, level="DEFAULT")
        await pull(9)  # older than that level
        await tell(7, output="6 workers")
    assert outcomes == [0, 0, 1, 1, 0, 0, 0]


async def test_an_end_that_the_server_alone_knows_ends_what_was_begun_here(tmp_path: Path) -> None:
    """Its client died: one op, which does not become unfinished when the window closes."""
    at = seconds_ago()
    row = row_of(at, 20)
    store = Store()
    async with langfuse_server(store) as server, observer(tmp_path, **env(server)) as running, client(running) as http:
        body = {name: row[name] for name in ("id", "traceId", "name", "startTime", "input")}
        event = {"id": "a", "type": "tool-create", "timestamp": at[32], "body": body}
        assert (await http.post(INGESTION, json={"batch": [event]})).status_code == 207
        assert (await http.get("/stats")).json()["langfuse"]["observations_open"] == 1
        store.observations = [row]
        for _ in range(2):
            await running.cycle.run_once()
        assert (await http.get("/stats")).json()["langfuse"]["observations_open"] == 0
    (op,) = ops(tmp_path)
    assert (op["success"], "unfinished" in op["extra"]) == (True, False)


@pytest.mark.parametrize("way", ["told", "pulled"])
async def test_what_the_proxy_saw_fail_stays_failed(tmp_path: Path, way: str) -> None:
    """The call's observation may be a success, also when it is updated or read again: the gateway's answer was none."""
    store = Store()
    async with stand_in() as gateway, langfuse_server(store) as server:
        gateway.answers["/tools/find_workers"] = says({"error": "no such table"}, 500)
        async with (
            observer(tmp_path, **env(server), GATEWAY_URL=gateway.url, OBSERVER_PROXY_PORT="0") as running,
            client(running) as http,
        ):
            assert running.proxy is not None
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.proxy.port}", timeout=30) as agent:
                parent = {"traceparent": f"00-{1:032x}-{1:016x}-01"}
                await agent.post("/tools/find_workers", json={"count": 1}, headers=parent)
            await settled(running, 1)
            at = seconds_ago()
            row = observation(1, at[32], endTime=at[0])
            names = ("id", "traceId", "name", "startTime", "endTime")
            for told, output in ((at[2], "none"), (at[1], "some"), (at[0], "all")):
                if way == "pulled":
                    store.observations = [{**row, "output": output, "updatedAt": told}]
                    await running.cycle.run_once()
                    continue
                body = {name: row[name] for name in names} | {"output": output}
                event = {"id": output, "type": "tool-create", "timestamp": told, "body": body}
                assert (await http.post(INGESTION, json={"batch": [event]})).status_code == 207
            stats = (await http.get("/stats")).json()
    assert (stats["total"], stats["failures"], stats["by_source"]) == (1, 1, {"mcp": 1})
    assert {(op["endpoint"], op["error"]) for op in ops(tmp_path)} == {("/tools/find_workers", "no such table")}
