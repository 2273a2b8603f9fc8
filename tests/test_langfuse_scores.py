"""What scores say becomes the outcome of the ops they judge, once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.model import Fragment, LangfuseTold
from sidecar.protocols import Receipt
from tests.langfuse_batches import SCORES, TRACE, at, begun, ended, event, score, taken, whole
from tests.observers import client, cycle, observer, settled, stand_in
from tests.test_langfuse_doors import ops, written
from tests.test_langfuse_forward import observed_span, send_spans


async def posted(http: httpx.AsyncClient, *scores: dict[str, Any]) -> None:
    """Scores as the newest SDKs send them."""
    answer = await http.post(SCORES, json=list(scores))
    assert (answer.status_code, answer.json()) == (202, {"message": "Accepted"})


def judgement(name: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"id": f"score-{name}", "traceId": TRACE, "name": name, "value": value, **more}


async def test_a_failing_score_amends_the_op_with_its_comment_as_evidence(tmp_path: Path) -> None:
    """The op stays; a second one amends it, a failure whose error is the score, linked to the first one's span."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", "generation", name="answer", model="small-chat", output="Ann can."))
        of_it = {"observationId": "job", "dataType": "BOOLEAN", "comment": "Ann left in May"}
        await posted(http, judgement("correct", 0, **of_it))
    first, second = ops(tmp_path)
    assert (first["success"], second["success"], second["amends"]) == (True, False, first["op_id"])
    assert (second["error"], second["error_type"]) == ("correct: false: Ann left in May", "evaluation")
    assert second["extra"]["evaluation.correct.comment"] == "Ann left in May"
    same = ("endpoint", "timestamp", "duration_ms", "trace_id", "input_summary", "source")
    assert [first[name] for name in same] == [second[name] for name in same]
    assert [link["span_id"] for link in second["span"]["links"]] == [first["span_id"]]


async def test_scores_of_several_kinds_of_one_op_are_kept_together(tmp_path: Path) -> None:
    """Each amends what the one before made; the last op says all."""
    async with observer(tmp_path, OBSERVER_LANGFUSE_FAILING="accuracy<0.5") as running, client(running) as http:
        await taken(http, *whole("job", name="plan", output="done"))
        await posted(
            http,
            *(
                judgement(name, value, observationId="job", dataType=kind)
                for name, value, kind in (
                    ("accuracy", 0.75, "NUMERIC"),
                    ("tone", "fine", "CATEGORICAL"),
                    ("note", "a bit long", "TEXT"),
                    ("helpful", 1, "BOOLEAN"),
                )
            ),
        )
        await posted(http, judgement("accuracy", 0.25, observationId="job"))
    made = ops(tmp_path)
    assert len(made) == 6
    assert [op["amends"] for op in made[1:]] == [op["op_id"] for op in made[:-1]]
    assert [op["success"] for op in made] == [True] * 5 + [False]
    assert made[-1]["error"] == "accuracy: 0.25"
    extra = made[-1]["extra"]
    assert {name: extra[f"evaluation.{name}"] for name in ("accuracy", "tone", "note", "helpful")} == {
        "accuracy": 0.25,
        "tone": "fine",
        "note": "a bit long",
        "helpful": True,
    }


async def test_a_better_score_takes_back_a_worse_one_but_no_error(tmp_path: Path) -> None:
    """Of one name the last counts; an exception stays one, however good the score."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        await taken(http, *whole("broken", name="load", level="ERROR", statusMessage="disk full"))
        for value in (0, 1):
            for observation in ("job", "broken"):
                of_it = {"observationId": observation, "dataType": "BOOLEAN"}
                await posted(http, {**judgement("correct", value, **of_it), "id": f"{observation}"})
    latest = {op["endpoint"]: op for op in ops(tmp_path)}
    assert (latest["step plan"]["success"], latest["step load"]["success"]) == (True, False)
    assert (latest["step load"]["error"], latest["step load"]["extra"]["evaluation.correct"]) == ("disk full", True)


async def test_the_same_score_again_says_nothing_new(tmp_path: Path) -> None:
    """Sent twice, by both doors, and after a restart that forgot everything but the journal."""
    single = judgement("correct", 0, observationId="job", dataType="BOOLEAN")
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        await posted(http, single, single)
        await taken(http, score(**single))
    (tmp_path / "data" / "state.db").unlink()
    async with observer(tmp_path) as running, client(running) as http:
        await posted(http, single)
        alone = await http.post(SCORES, json=single)
        assert (alone.status_code, alone.json()) == (200, {"id": "score-correct"})
    assert [op["success"] for op in ops(tmp_path)] == [True, False]


@pytest.mark.parametrize("is_early", [False, True], ids=["after the op", "before the op"])
async def test_a_score_may_return_to_what_it_said_before(tmp_path: Path, is_early: bool) -> None:
    """Changed twice, the last word counts, over a restart too; each telling that is sent again is a repetition."""
    job = whole("job", name="plan")
    told = [
        event("score-create", seconds, **judgement("correct", value, observationId="job", dataType="BOOLEAN"))
        for seconds, value in enumerate((0, 1, 0, 1), 2)
    ]
    last = {**told[0], "timestamp": at(6)}
    async with observer(tmp_path) as running, client(running) as http:
        for each in [*told[:3], *job] if is_early else [*job, *told[:3]]:
            await taken(http, each)
        await written(running, tmp_path, 4)
        assert [op["success"] for op in ops(tmp_path)] == [True, False, True, False]
    (tmp_path / "data" / "state.db").unlink()
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *told)
        await taken(http, last, *told)  # only the first is a change
        stats = (await http.get("/stats")).json()
        assert (stats["failures"], stats["langfuse"]["judged"], stats["langfuse"]["repeated"]) == (1, 2, 7)
    assert [op["success"] for op in ops(tmp_path)] == [True, False, True, False, True, False]


@pytest.mark.parametrize("is_early", [False, True], ids=["after the op", "before the op"])
async def test_an_older_telling_that_comes_late_is_no_news(tmp_path: Path, is_early: bool) -> None:
    """As where a refused batch is sent again after the next one; what confirmed the last word counts as told then."""
    job = whole("job", name="plan")
    good, bad, better, worse, again = (
        event("score-create", seconds, **judgement("correct", value, observationId="job", dataType="BOOLEAN"))
        for seconds, value in ((5, 1), (2, 0), (9, 1), (7, 0), (9.5, 0))
    )
    async with observer(tmp_path) as running, client(running) as http:
        for each in [good, bad, *job] if is_early else [*job, good, bad]:
            await taken(http, each)
        await taken(http, better)
    (tmp_path / "data" / "state.db").unlink()
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, worse, good, better)
        assert (await http.get("/stats")).json()["langfuse"]["repeated"] == 3
        await taken(http, again)
    assert [op["success"] for op in ops(tmp_path)] == [True, True, False]


@pytest.mark.parametrize("is_rebuilt", [False, True], ids=["saved state", "from the journals"])
async def test_scores_of_an_earlier_version_are_known_after_the_upgrade(tmp_path: Path, is_rebuilt: bool) -> None:
    """Its keys have no time, and its saved state no last words: sent again, or still waiting, they are repetitions."""
    first, second = (
        event("score-create", 2, **judgement("correct", 0, id=each, observationId=each, dataType="BOOLEAN"))
        for each in ("job", "late")
    )
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        scores = [running.langfuse.reader.score(each["body"], 0) for each in (first, second)]
        await running.langfuse.desk.take(LangfuseTold(scores=scores))
        said = running.langfuse.book._said
        for key in dict(said.items()):
            said.remove(key)
    if is_rebuilt:
        (tmp_path / "data" / "state.db").unlink()
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, first, second, *whole("late", name="load"))
        await written(running, tmp_path, 4)
        assert (await http.get("/stats")).json()["langfuse"]["repeated"] == 2
        for seconds, value in ((3, 1), (4, 0)):
            await taken(http, {**first, "timestamp": at(seconds), "body": {**first["body"], "value": value}})
    made = [(op["endpoint"], op["success"]) for op in ops(tmp_path)]
    assert made[:2] == [("step plan", True), ("step plan", False)]
    assert made[2:] == [("step load", True), ("step load", False), ("step plan", True), ("step plan", False)]


async def test_a_telling_from_the_future_counts_as_of_its_arrival(tmp_path: Path) -> None:
    """A sender's clock is ahead: what others say afterwards holds nevertheless."""
    of_it = {"observationId": "job", "dataType": "BOOLEAN"}
    ahead = {**score(**judgement("correct", 0, **of_it)), "timestamp": "9999-12-31T00:00:00Z"}
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        await taken(http, ahead)
        await posted(http, judgement("correct", 1, **of_it))
        await taken(http, ahead)
    assert [op["success"] for op in ops(tmp_path)] == [True, False, True]


async def test_a_score_without_a_time_may_return_to_what_it_said_before(tmp_path: Path) -> None:
    """By the scores endpoint, where nothing but the order tells: said twice in a row it is a repetition."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        for value in (0, 0, 1, 1, 0, 0):
            await posted(http, judgement("correct", value, observationId="job", dataType="BOOLEAN"))
        await posted(
            http, *(judgement("correct", value, observationId="job", dataType="BOOLEAN") for value in (1, 1, 0))
        )
        assert (await http.get("/stats")).json()["langfuse"]["repeated"] == 4
    assert [op["success"] for op in ops(tmp_path)] == [True, False, True, False, True, False]


async def test_a_score_waits_for_the_op_it_judges(tmp_path: Path) -> None:
    """Scores are sent each second, spans every five: the verdict comes when the op does, over a restart too."""
    async with observer(tmp_path) as running, client(running) as http:
        await posted(http, judgement("correct", 0, observationId="job", dataType="BOOLEAN"))
        assert (await http.get("/stats")).json()["langfuse"]["scores_waiting"] == 1
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        await written(running, tmp_path, 2)
    assert [op["success"] for op in ops(tmp_path)] == [True, False]


async def test_a_score_that_names_a_span_alone_waits_too(tmp_path: Path) -> None:
    """Without its trace's id an observation's is enough to know what is judged, once it comes."""
    async with observer(tmp_path) as running, client(running) as http:
        alone = judgement("correct", 0, observationId="job", dataType="BOOLEAN")
        del alone["traceId"]
        await posted(http, alone)
        assert (await http.get("/stats")).json()["langfuse"]["scores_waiting"] == 1
        await taken(http, *whole("job", name="plan"))
        await written(running, tmp_path, 2)
    assert [op["success"] for op in ops(tmp_path)] == [True, False]


async def test_an_item_that_cannot_be_recorded_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours costs the one item, and says so in `lost`; the next one is recorded."""
    async with observer(tmp_path) as running, client(running) as http:
        observations = running.langfuse.desk._observations
        told = observations.told

        def faulty(fragment: Fragment) -> Receipt | None:
            if fragment.name == "poison":
                raise ZeroDivisionError
            return told(fragment)

        monkeypatch.setattr(observations, "told", faulty)
        await taken(http, *whole("bad", name="poison"), *whole("good", name="plan"))
        await written(running, tmp_path, 1)
        assert (await http.get("/stats")).json()["lost"]["langfuse_item_not_recorded"] == 1


async def test_a_score_of_a_trace_judges_its_root(tmp_path: Path) -> None:
    """What lies inside has scores of its own."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, begun("root", name="plan"), *whole("inner", name="load", parentObservationId="root"))
        await posted(http, judgement("correct", 0, dataType="BOOLEAN"))
        await taken(http, ended("root"))
        await written(running, tmp_path, 3)
    assert [(op["endpoint"], op["success"]) for op in ops(tmp_path)] == [
        ("step load", True),
        ("step plan", True),
        ("step plan", False),
    ]


async def test_what_judges_no_op_is_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session's, a dataset run's at once; a trace's or span's that never came when its time is over."""
    monkeypatch.setattr("sidecar.langfuse.desk.SCORE_WAIT_S", 0.5)
    async with observer(tmp_path) as running, client(running) as http:
        await posted(
            http,
            {"id": "1", "sessionId": "shift-7", "name": "csat", "value": "bad", "comment": "slow"},
            {"id": "2", "datasetRunId": "run", "name": "overall", "value": 0.5},
            judgement("correct", 0, observationId="gone", dataType="BOOLEAN"),
        )
        await written(running, tmp_path, 3)
    session, run, gone = sorted(ops(tmp_path), key=lambda op: op["event_id"])
    assert (session["endpoint"], session["success"], session["task"]) == ("evaluate csat", False, "shift-7")
    assert (session["error"], run["endpoint"], run["success"]) == ("csat: bad: slow", "evaluate overall", True)
    assert (gone["endpoint"], gone["success"], gone["trace_id"]) == ("evaluate correct", False, TRACE)


async def test_a_correction_becomes_an_overseers(tmp_path: Path) -> None:
    """Under the judged op's endpoint as its task class, in its trace, linked to its span; the op itself stays."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", "generation", name="answer", model="small-chat", output="Ann can."))
        said = judgement("output", "Bo can.", observationId="job", dataType="CORRECTION", comment="Ann left")
        await posted(http, said)
        await posted(http, said)
        assert (await http.get("/stats")).json()["by_source"] == {"langfuse": 1, "overseer_correction": 1}
    answered, correction = ops(tmp_path)
    assert (correction["source"], correction["correction"]) == ("overseer_correction", "Bo can.")
    assert (correction["task_class"], correction["input_summary"]) == ("chat small-chat", "chat small-chat: Ann left")
    assert (correction["trace_id"], correction["parent_span_id"]) == (TRACE, answered["span_id"])
    assert [link["span_id"] for link in correction["span"]["links"]] == [answered["span_id"]]


async def test_scores_that_are_wrong_are_named(tmp_path: Path) -> None:
    """Of a list the others stay; the one alone is 422."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        answer = await http.post(
            SCORES, json=[judgement("correct", 0, observationId="job", dataType="BOOLEAN"), {"name": "x"}, 7]
        )
        assert (answer.status_code, answer.json()["accepted"], answer.json()["rejected"]) == (207, 1, 2)
        assert (await http.post(SCORES, json={"name": "x", "traceId": TRACE})).status_code == 422
    assert len(ops(tmp_path)) == 2


async def test_a_score_after_a_restart_finds_the_op_in_the_journal(tmp_path: Path) -> None:
    """Judgements come late: the memory of ops is made again from the journal's tail, scores among them."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        await posted(http, judgement("helpful", 0, observationId="job", dataType="BOOLEAN"))
    async with observer(tmp_path) as running, client(running) as http:
        await posted(http, judgement("tone", "rude", observationId="job"))
    first, second, third = ops(tmp_path)
    assert [second["amends"], third["amends"]] == [first["op_id"], second["op_id"]]
    assert (third["success"], third["extra"]["evaluation.helpful"], third["extra"]["evaluation.tone"]) == (
        False,
        False,
        "rude",
    )


async def test_a_late_update_keeps_what_scores_said(tmp_path: Path) -> None:
    """The observation is told anew, and is judged as before."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan", output="early"))
        await posted(http, judgement("correct", 0, observationId="job", dataType="BOOLEAN"))
        await taken(http, ended("job", output="late", seconds=2.0))
        await posted(http, judgement("correct", 1, observationId="job", dataType="BOOLEAN"))
    made = ops(tmp_path)
    assert [(op["success"], op["output_summary"]) for op in made] == [
        (True, "early"),
        (False, "ERROR: correct: false"),
        (False, "ERROR: correct: false"),
        (True, "late"),
    ]
    assert (made[2]["duration_ms"], made[3]["duration_ms"]) == (2000, 2000)


async def views(http: httpx.AsyncClient) -> tuple[tuple[int, int, int], list[tuple[str, int]], dict[str, int]]:
    """(all, successes, failures) of `/stats`; incidents with their counts; successes by endpoint of the playbook."""
    stats = (await http.get("/stats")).json()
    incidents = (await http.get("/incidents")).json()["incidents"]
    entries = (await http.get("/playbooks")).json()["playbooks"]
    return (
        (stats["total"], stats["successes"], stats["failures"]),
        [(each["message"], each["count"]) for each in incidents],
        {each["endpoint"]: each["successes"] for each in entries if each.get("successes")},
    )


async def test_a_score_after_the_op_changes_what_the_views_count_once(tmp_path: Path) -> None:
    """Of seven successes one is judged bad, twice over: counts, incidents and playbook know six, and one failure."""
    bad = judgement("correct", 0, observationId="job-3", dataType="BOOLEAN", comment="wrong week")
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *(each for number in range(7) for each in whole(f"job-{number}", name="plan")))
        assert (await views(http))[:2] == ((7, 7, 0), [])
        await posted(http, bad)
        await posted(http, bad)
        for _ in range(5):  # the playbook is made in every fifth
            await cycle(running)
        seen = await views(http)
        assert seen == ((7, 6, 1), [("correct: false: wrong week", 1)], {"step plan": 6})
    async with observer(tmp_path) as running, client(running) as http:
        assert await views(http) == seen
        await posted(http, {**bad, "value": 1})  # whoever gave it has changed their mind
        assert (await views(http))[:2] == ((7, 7, 0), [])
    assert len(ops(tmp_path)) == 9


async def test_an_op_that_the_views_have_forgotten_is_not_amended(tmp_path: Path) -> None:
    """It would count beside what amends it: the score of it is an evaluation of its own."""
    async with observer(tmp_path) as running, client(running) as http:
        await taken(http, *whole("job", name="plan"))
        running.books.latest._known.clear()
        running.langfuse.desk._score_wait_ns = 0
        await posted(http, judgement("correct", 0, observationId="job", dataType="BOOLEAN"))
        await written(running, tmp_path, 2)
    first, second = ops(tmp_path)
    assert (first["success"], second["endpoint"], second["success"], "amends" in second) == (
        True,
        "evaluate correct",
        False,
        False,
    )
    assert second["parent_span_id"] == first["span_id"]


async def test_a_score_judges_the_call_that_its_observation_was(tmp_path: Path) -> None:
    """The proxy saw the call, the SDK told of the tool that made it: one op, and the score is of that."""
    async with stand_in() as gateway:
        proxy = {"GATEWAY_URL": gateway.url, "OBSERVER_PROXY_PORT": "0"}
        async with observer(tmp_path, **proxy) as running, client(running) as http:
            assert running.proxy is not None
            span = observed_span()
            parent = {"traceparent": f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01"}
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.proxy.port}", timeout=30) as agent:
                await agent.post("/tools/find_workers", json={"count": 2}, headers=parent)
            await settled(running, 1)
            span.start_time_unix_nano, span.end_time_unix_nano = time.time_ns() - 10**9, time.time_ns()
            await send_spans(http, span)
            of_it = {"traceId": span.trace_id.hex(), "observationId": span.span_id.hex(), "dataType": "BOOLEAN"}
            await posted(http, judgement("correct", 0, **of_it))
            assert (await views(http))[:2] == ((1, 0, 1), [("correct: false", 1)])
    assert [op["endpoint"] for op in ops(tmp_path)][-1] == "/tools/find_workers"
