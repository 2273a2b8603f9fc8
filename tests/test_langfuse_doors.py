"""Langfuse's ingestion door: fragments become ops, once, whatever ends between them."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar import cli
from sidecar.pipeline.observer import Observer
from sidecar.receivers.langfuse_events import span_id_of, trace_id_of
from sidecar.store.checkpoint_copy import dumped
from tests.crash.journal import read
from tests.langfuse_batches import INGESTION, SCORES, TRACE, at, begun, ended, event, post, score, taken, whole
from tests.observers import FaultyFile, client, observer, settled
from tests.processes import UNMEASURED, observer_life


def ops(tmp_path: Path) -> list[dict[str, Any]]:
    """Every op in the journal: what ended long ago closes a segment early."""
    return [line.record for line in read(tmp_path / "data")[0]]


async def written(running: Observer, tmp_path: Path, count: int) -> None:
    """Return once the journal has *count* ops, those among them that others amend."""
    with running.feed.watch(lambda _op: True) as watch:
        async with asyncio.timeout(120):
            batches = watch.batches(0.2)
            while len(ops(tmp_path)) < count:
                await anext(batches)


async def test_observations_of_a_trace_become_ops(tmp_path: Path) -> None:
    """Types, parents, session, user, trace name, model, tokens, cost, errors: as they were told."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(
            http,
            event("trace-create", id=TRACE, name="staffing", userId="ann", sessionId="shift-7"),
            begun("agent-1", "observation", type="AGENT", name="dispatcher", input={"week": 31}),
            begun("gen-1", "generation", name="answer", parentObservationId="agent-1", model="small-chat"),
            ended(
                "gen-1",
                "generation",
                2.0,
                output="Ann can.",
                usage={"promptTokens": 21, "completionTokens": 9},
                costDetails={"total": 0.5},
            ),
            begun("tool-1", "span", 1.0, name="find_workers", parentObservationId="agent-1", input={"count": 40}),
            ended("tool-1", "span", 1.25, level="ERROR", statusMessage="only 4 drivers"),
            event("event-create", 1.5, id="event-1", traceId=TRACE, name="shift_opened", startTime=at(1.5)),
            ended("agent-1", "observation", 3.0, type="AGENT", output="done"),
        )
        generation, tool, opened, agent = sorted(ops(tmp_path), key=lambda op: op["endpoint"])[:1] + [
            next(op for op in ops(tmp_path) if op["endpoint"] == endpoint)
            for endpoint in ("step find_workers", "event shift_opened", "invoke_agent dispatcher")
        ]
    assert (generation["endpoint"], generation["output_summary"]) == ("chat small-chat", "Ann can.")
    extra = generation["extra"]
    assert (extra["gen_ai.usage.input_tokens"], extra["gen_ai.usage.output_tokens"]) == (21, 9)
    assert (extra["gen_ai.usage.cost"], extra["langfuse.trace.name"]) == (0.5, "staffing")
    assert (tool["success"], tool["error"], tool["features"]) == (False, "only 4 drivers", {"count": 40})
    assert (tool["duration_ms"], tool["timestamp"], opened["duration_ms"]) == (250.0, at(1.25), 0)
    assert (agent["duration_ms"], agent["features"], agent["source"]) == (3000, {"week": 31}, "langfuse")
    for op in (generation, tool):
        assert (op["trace_id"], op["parent_span_id"]) == (TRACE, agent["span_id"])
        assert (op["task"], op["staffer_id"]) == ("shift-7", "ann")
    assert len(ops(tmp_path)) == 4


async def test_observations_of_every_type_have_events_of_their_own(tmp_path: Path) -> None:
    """Newer servers take `tool-create` and the like: each an operation of that type, whichever event ends it."""
    types = ("tool", "agent", "chain", "retriever", "evaluator", "embedding", "guardrail")
    async with observer(tmp_path) as running, client(running) as http:
        for kind in types:
            await taken(http, begun(f"by-itself-{kind}", kind, endTime=at(1), name="one"))
            await taken(http, begun(f"by-span-{kind}", kind, name="two"), ended(f"by-span-{kind}", level="ERROR"))
        item = event("dataset-run-item-create", id="item", runName="run", datasetItemId="row", traceId=TRACE)
        await taken(http, item)
        langfuse = (await http.get("/stats")).json()["langfuse"]
        assert (langfuse["dataset_run_items"], langfuse["invalid"], langfuse["events"]) == (1, 0, 3 * len(types))
    assert [(op["endpoint"].split()[0], op["success"]) for op in ops(tmp_path)] == [
        (verb, success)
        for verb in ("execute_tool", "invoke_agent", "chain", "retrieval", "evaluate", "embeddings", "guardrail")
        for success in (True, False)
    ]


async def test_each_bad_item_is_named_and_the_others_stay(tmp_path: Path) -> None:
    """A 207 says which; nothing that can be sent fails the request."""
    bad: list[Any] = [
        7,
        {"id": "no-type", "body": {}},
        {"id": "unknown", "type": "span-delete", "body": {"id": "x"}},
        {"id": "no-body", "type": "span-create"},
        {"id": "no-observation", "type": "span-create", "body": {"traceId": TRACE}},
        {"id": "bad-time", "type": "span-create", "body": {"id": "x", "startTime": "yesterday"}},
        {"id": "bad-stamp", "type": "span-create", "timestamp": "now", "body": {"id": "x"}},
        {"id": "bad-name", "type": "span-create", "body": {"id": "x", "name": {}}},
        {"type": "span-create", "body": {"id": "x"}},
        {"id": "no-value", "type": "score-create", "body": {"name": "n", "traceId": TRACE}},
        {"id": "of-nothing", "type": "score-create", "body": {"name": "n", "value": 1}},
        {**score(name="n", value=2, dataType="BOOLEAN"), "id": "no-boolean"},
        {**score(name="n", value="a", dataType="NUMERIC"), "id": "no-number"},
        {**score(name="n", value="a", dataType="COLOUR"), "id": "no-type"},
    ]
    async with observer(tmp_path) as running, client(running) as http:
        said = await post(http, *bad, *whole("fine"), {"id": "log", "type": "sdk-log", "body": {"log": "x"}})
        assert [each["id"] for each in said["errors"]] == [
            each.get("id", "") if isinstance(each, dict) else "" for each in bad
        ]
        assert {each["status"] for each in said["errors"]} == {400}
        assert len(said["successes"]) == 3
        assert (await http.get("/stats")).json()["langfuse"]["invalid"] == len(bad)
    assert [op["endpoint"] for op in ops(tmp_path)] == ["step"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"batch": 7}', b'{"events": []}'])
async def test_what_is_no_batch_is_refused_as_langfuse_does(tmp_path: Path, body: bytes) -> None:
    """400, with the names that its clients read."""
    async with observer(tmp_path) as running, client(running) as http:
        answer = await http.post(INGESTION, content=body)
        assert (answer.status_code, answer.json().keys()) == (400, {"message", "error"})


async def test_a_batch_sent_again_is_taken_and_counted_once(tmp_path: Path) -> None:
    """Clients repeat what they got no answer for; also a part of it, in another batch, and after a restart."""
    batch = [*whole("one", name="a"), *whole("two", name="b"), score(name="ok", value=1, dataType="BOOLEAN")]
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *batch)
        await taken(http, *batch)
        await taken(http, *batch[2:4])
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *batch)
        await settled(running, 2)
    assert [op["endpoint"] for op in ops(tmp_path)] == ["step a", "step b"]


async def test_fragments_survive_a_kill_between_them(tmp_path: Path) -> None:
    """Killed after the first half was acknowledged, and again after the second: one op, of both halves."""
    async with (
        observer_life(tmp_path, **UNMEASURED) as first,
        httpx.AsyncClient(base_url=first.url, timeout=30) as http,
    ):
        opening = begun("job", "generation", name="answer", model="small-chat", input="Who can drive?")
        await taken(http, event("trace-create", id=TRACE, sessionId="shift-7"), opening)
        await asyncio.to_thread(first.kill)
    async with (
        observer_life(tmp_path, **UNMEASURED) as second,
        httpx.AsyncClient(base_url=second.url, timeout=30) as http,
    ):
        assert (await http.get("/stats")).json()["langfuse"]["observations_open"] == 1
        await taken(http, ended("job", "generation", 2.5, output="Ann can."))
        await asyncio.to_thread(second.kill)
    async with observer_life(tmp_path) as third, httpx.AsyncClient(base_url=third.url, timeout=30) as http:
        stats = (await http.get("/stats")).json()
        assert (stats["total"], stats["langfuse"]["observations_open"]) == (1, 0)
    (op,) = ops(tmp_path)
    assert (op["endpoint"], op["task"], op["duration_ms"]) == ("chat small-chat", "shift-7", 2500)
    assert (op["input_summary"], op["output_summary"]) == ("chat small-chat: Who can drive?", "Ann can.")


async def test_an_observation_without_an_end_is_an_op_when_its_window_closes(tmp_path: Path) -> None:
    """Its end is when it was told of last, and it says that it is unfinished; the real end amends it."""
    async with observer(tmp_path, OBSERVER_LANGFUSE_WINDOW="3") as running, client(running) as http:
        await taken(http, begun("job", name="load", seconds=5.0))
        assert ops(tmp_path) == []
        await settled(running, 1)
        await taken(http, ended("job", seconds=9.0, output="loaded"))
    unfinished, finished = ops(tmp_path)
    assert (unfinished["extra"]["unfinished"], unfinished["timestamp"]) == (True, at(5))
    assert "unfinished" not in finished["extra"]
    assert (finished["amends"], finished["duration_ms"]) == (unfinished["op_id"], 4000)


async def test_a_later_update_is_an_op_that_amends_linked_to_the_first(tmp_path: Path) -> None:
    """Ended spans never change: the new one names the op it amends, and links to its span."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="load", output="loaded"))
        await taken(http, event("span-update", 8.0, id="job", traceId=TRACE, level="ERROR", statusMessage="was empty"))
        await taken(http, event("span-update", 9.0, id="job", traceId=TRACE, metadata={"seen": "by nobody"}))
    first, second = ops(tmp_path)
    assert (first["success"], second["success"], second["error"]) == (True, False, "was empty")
    assert (second["amends"], second["trace_id"]) == (first["op_id"], first["trace_id"])
    assert second["span_id"] != first["span_id"]
    links = [(link["trace_id"], link["span_id"]) for link in second["span"]["links"]]
    assert links == [(first["trace_id"], first["span_id"])]


async def test_an_update_that_overtakes_its_beginning_loses_nothing(tmp_path: Path) -> None:
    """What was told later wins, whichever came first."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, event("span-update", 2.0, id="job", traceId=TRACE, level="WARNING", output="late"))
        await taken(http, begun("job", name="load", level="DEFAULT", output="early"))
        await taken(http, ended("job", seconds=3.0))
    (op,) = ops(tmp_path)
    assert (op["output_summary"], op["extra"]["langfuse.observation.level"]) == ("late", "WARNING")


async def test_open_observations_are_bounded_and_none_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound a sender is told to come again, whole; what was taken stays, and its end makes room."""
    monkeypatch.setattr("sidecar.langfuse.book.MOST_OPEN", 3)
    async with observer(tmp_path) as running, client(running) as http:

        async def refused(*names: str) -> None:
            before = (await http.get("/stats")).json()["langfuse"]["observations_open"]
            answer = await http.post(INGESTION, json={"batch": [begun(name) for name in names]})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert (await http.get("/stats")).json()["langfuse"]["observations_open"] == before

        await taken(http, begun("job-0"))
        await refused("a", "b", "c")
        await taken(http, begun("job-1"), begun("job-2"))
        await refused("one too many")
        await taken(http, ended("job-0"))
        await taken(http, begun("job-3"))


async def test_a_batch_larger_than_the_bound_passes_if_it_ends_what_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is over makes room for what comes behind it in the same request."""
    monkeypatch.setattr("sidecar.langfuse.book.MOST_OPEN", 3)
    monkeypatch.setattr("sidecar.langfuse.desk._AT_ONCE", 2)
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *(each for number in range(8) for each in whole(f"job-{number}", name="load")))
    assert len(ops(tmp_path)) == 8


async def test_requests_that_come_together_share_the_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room that is kept for one, while it is written, is not given to another."""
    monkeypatch.setattr("sidecar.langfuse.book.MOST_OPEN", 10)
    async with observer(tmp_path) as running, client(running) as http:
        batches = [[begun(f"{batch}-{number}") for number in range(4)] for batch in range(12)]
        answers = await asyncio.gather(*(http.post(INGESTION, json={"batch": batch}) for batch in batches))
        assert Counter(answer.status_code for answer in answers)[207] == 2
        assert {answer.status_code for answer in answers} == {207, 503}
        assert (await http.get("/stats")).json()["langfuse"]["observations_open"] == 8


async def test_credentials_reach_no_journal(tmp_path: Path) -> None:
    """Fragments are masked before they are written down."""
    secret = "sk-" + "a1B2" * 8
    async with observer(tmp_path) as running, client(running) as http:
        told: dict[str, Any] = {
            "input": {"api_key": "hunter2hunter2"},
            "output": f"used {secret}",
            "statusMessage": secret,
        }
        await taken(http, begun("job", name="load", **told), score(name="ok", value=0.5, comment=f"see {secret}"))
        await taken(http, ended("job"))
    for name in ("ops.jsonl", "decisions.jsonl"):
        written = (tmp_path / "data" / name).read_text()
        assert secret not in written
        assert "hunter2" not in written
    assert "[redacted]" in (tmp_path / "data" / "decisions.jsonl").read_text()


async def test_the_doors_ask_for_a_token_with_the_ingest_scope(tmp_path: Path) -> None:
    """It is the secret of Basic auth, as Langfuse's SDKs send it; health asks for none."""
    (tmp_path / "tokens").write_text("in ingest\nout read\n")
    async with observer(tmp_path, OBSERVER_TOKEN_FILE=str(tmp_path / "tokens")) as running, client(running) as http:
        for path, body in ((INGESTION, {"batch": []}), (SCORES, []), ("/api/public/otel/v1/traces", {})):
            statuses = [
                (await http.post(path, json=body, auth=auth or httpx.Auth())).status_code
                for auth in (None, ("pk", "wrong"), ("pk", "out"), ("pk", "in"))
            ]
            assert statuses[:3] == [401, 401, 403]
            assert statuses[3] < 300
        assert (await http.get("/api/public/projects", auth=("pk", "in"))).json()["data"]
        assert (await http.get("/api/public/projects", auth=("pk", "wrong"))).status_code == 401
        assert (await http.get("/api/public/health")).json()["status"] == "OK"


async def test_what_sdks_ask_at_start_is_answered(tmp_path: Path) -> None:
    """Without a Langfuse server behind: no prompts, so that fallbacks are used, and no media to upload."""
    async with observer(tmp_path) as running, client(running) as http:
        prompt = await http.get("/api/public/v2/prompts/folder%2Fgreeting", params={"label": "production"})
        assert (prompt.status_code, prompt.json()["error"]) == (404, "LangfuseNotFoundError")
        media = await http.post("/api/public/media", json={"sha256Hash": "a+b/" * 11, "field": "input"})
        assert (media.status_code, media.json()) == (201, {"mediaId": "a-b_a-b_a-b_a-b_a-b_a-", "uploadUrl": None})
        assert (await http.patch("/api/public/media/a-b", json={})).is_success


async def test_events_of_source_langfuse_stay_as_they_were(tmp_path: Path) -> None:
    """A bridge that posts to `/event` is no Langfuse client: its op is what it posted."""
    async with observer(tmp_path) as running, client(running) as http:
        await http.post("/event", json={"source": "langfuse", "endpoint": "trace:x", "success": True, "duration_ms": 3})
        stats = (await http.get("/stats")).json()
        assert (stats["by_source"], stats["langfuse"]["recorded"]) == ({"langfuse": 1}, 0)
    (op,) = ops(tmp_path)
    assert (op["endpoint"], op["success"], "event_id" in op) == ("trace:x", True, False)


def test_ids_of_any_form_have_one_of_w3c() -> None:
    """Hex stays, UUIDs lose their dashes, others are hashed as `create_trace_id(seed=…)` of the SDKs does."""
    assert trace_id_of(TRACE.upper()) == TRACE
    assert trace_id_of("01234567-89ab-cdef-0123-456789abcdef") == TRACE
    assert trace_id_of("order 7") == sha256(b"order 7").hexdigest()[:32]
    assert span_id_of("0123456789abcdef") == "0123456789abcdef"
    assert span_id_of("order 7") == sha256(b"order 7").hexdigest()[:16]
    assert trace_id_of("0" * 32) != "0" * 32


async def test_a_replay_comes_to_the_same_open_observations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What waits, what is done and what scores wait follows from the journals, byte for byte; nothing is recorded."""
    for life in range(3):
        async with observer(tmp_path) as running, client(running) as http:
            for number in range(8):
                name = f"{life}-{number}"
                await taken(http, event("trace-create", id=TRACE, name=f"life {life}"), begun(name, name="load"))
                if number % 2:
                    await taken(http, ended(name), score(name="ok", value=0, dataType="BOOLEAN", observationId=name))
                if number % 4 == 1:  # told, confirmed, and contradicted by what comes late
                    kept = {"id": name, "name": "kept", "observationId": name, "dataType": "BOOLEAN"}
                    each = [score(**kept, value=value) for value in (1, 1, 0)]
                    await taken(http, *({**one, "timestamp": at(t)} for one, t in zip(each, (5, 7, 6), strict=True)))
                    for t, more in ((9, {"output": "last"}), (8, {"output": "middle", "level": "WARNING"})):
                        await taken(http, event("span-update", t, id=name, traceId=TRACE, **more))
                if number % 3 == 0:
                    await taken(http, score(name="later", value=1, observationId=f"never {name}"))
                await running.cycle.run_once()
    before, lines = dumped(tmp_path / "data" / "state.db"), len(ops(tmp_path))
    dump = tmp_path / "dump.json"
    arguments = ["replay", "--data-dir", str(tmp_path / "data"), "--dump", str(dump)]
    assert await asyncio.to_thread(cli.main, arguments) == 0
    capsys.readouterr()
    assert (dump.read_bytes(), len(ops(tmp_path))) == (before, lines)
    kinds = Counter(key.partition("/")[0] for key in json.loads(before)["langfuse"])
    assert kinds == {"open": 12, "done": 12, "trace": 1, "score": 9, "said": 27}


async def test_what_was_told_waits_for_a_disk_that_takes_ops(tmp_path: Path) -> None:
    """Full for ops alone: the fragments are safe, and become their op when there is room; full for all: 503."""
    ops_file, decisions_file = FaultyFile.fresh(), FaultyFile.fresh()

    def open_file(path: Path) -> FaultyFile:
        return (ops_file if path.name == "ops.jsonl" else decisions_file)(path)

    full = OSError(errno.ENOSPC, "No space left on device")
    async with observer(tmp_path, open_file=open_file) as running, client(running) as http:
        ops_file.failure = full
        await taken(http, *whole("job", name="load"))
        stats = (await http.get("/stats")).json()
        assert (stats["total"], stats["langfuse"]["observations_open"]) == (0, 1)
        decisions_file.failure = full
        refused = await http.post(INGESTION, json={"batch": whole("other")})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        ops_file.failure = decisions_file.failure = None
        await written(running, tmp_path, 1)
        await taken(http, *whole("other", name="plan"))
    assert [op["endpoint"] for op in ops(tmp_path)] == ["step load", "step plan"]
