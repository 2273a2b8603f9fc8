"""Advice over HTTP: from failures to a rule, an entry, a coin in the journal, and what came of it."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import grpc
import httpx
import pytest

from sidecar.advice.advisor import INFORMED
from sidecar.call_fields import PARAMETERS
from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pipeline.observer import Observer
from tests.grpc_service import service
from tests.observers import FaultyFile, client, cycle, journal, observer

ENDPOINT = "/tools/fill"
ASK = {"endpoint": ENDPOINT, "certified": "false", "task": "t-1"}


def calls(count: int, seed: int = 1, **more: Any) -> list[dict[str, Any]]:
    """Calls that mostly fail where `certified` is false."""
    dice = Random(seed)
    found = []
    for number in range(count):
        certified = dice.random() < 0.5
        success = dice.random() < (0.95 if certified else 0.2)
        features = {"certified": certified, "shift": dice.choice(["day", "night"])}
        call = {"endpoint": ENDPOINT, "success": success, "features": features, "task": f"w-{seed}-{number}"}
        found.append({**call, "error": "" if success else "refused", **more})
    return found


async def learnt(running: Observer, http: httpx.AsyncClient, **more: Any) -> list[dict[str, Any]]:
    """The entries that agents may be told of, after two hundred calls and a cycle."""
    assert (await http.post("/events", json=calls(200, **more))).json()["accepted"] == 200
    await cycle(running)
    entries = (await http.get("/playbooks")).json()["playbooks"]
    return [entry for entry in entries if entry.get("author") == "rule"]


async def shown(http: httpx.AsyncClient, ask: Any = ASK) -> tuple[str, dict[str, Any]]:
    """(task, answer) of the first of a hundred tasks whose coin fell on telling."""
    for number in range(100):
        task = f"t-{number}"
        answer = (await http.get("/advice", params={**ask, "task": task})).json()
        if answer["advice"]:
            return task, answer
    raise AssertionError("no coin fell on telling")


async def test_what_fails_becomes_advice_with_a_coin_in_the_journal(tmp_path: Path) -> None:
    """The entry says what to set; the exposure, its eligible entries and coins are written before the answer."""
    async with observer(tmp_path) as running, client(running) as http:
        (entry,) = await learnt(running, http)
        assert (entry["state"], entry["plain"], entry["set"]) == ("candidate", True, {"certified": True})
        task, answer = await shown(http)
        (item,) = answer["advice"]
        assert (item["id"], item["set"], item["evidence"]) == (
            entry["playbook_id"],
            {"certified": True},
            entry["calls"],
        )
        assert item["text"] == entry["text"]
        written = [line["body"] for line in journal(tmp_path, "decisions.jsonl") if line["kind"] == "exposure"]
        assert (written[-1]["exposure_id"], written[-1]["task"]) == (answer["exposure_id"], task)
        assert written[-1]["assignments"] == [
            {"playbook_id": item["id"], "version": 1, "propensity": 0.5, "shown": True}
        ]
        assert any(not each["assignments"][0]["shown"] for each in written) or len(written) == 1


async def test_a_call_that_needs_no_advice_gets_none(tmp_path: Path) -> None:
    """It does already what there is to say, or the endpoint is another: no exposure, nothing to report."""
    async with observer(tmp_path) as running, client(running) as http:
        await learnt(running, http)
        for ask in ({**ASK, "certified": "true"}, {**ASK, "endpoint": "/other"}):
            answer = await http.get("/advice", params=ask)
            assert answer.json() == {"exposure_id": None, "advice": []}


async def test_who_leaves_the_deciding_fact_out_is_told_its_name(tmp_path: Path) -> None:
    """An empty list would look as if nothing were known; over gRPC too. What was said needs no asking for."""
    async with service(tmp_path) as (running, stub, _), client(running) as http:
        entries = [
            {"kind": "avoid", "endpoint": ENDPOINT, "text": "Avoid it.", "when": {"age_days": {"above": 33.0}}},
            {"kind": "do", "endpoint": ENDPOINT, "text": "Set it.", "when": {"zone": "a"}, "set": {"shift": "day"}},
        ]
        body = {"format": "observer.playbook/1", "entries": entries}
        for key in (await http.post("/playbooks/import", json=body)).json()["imported"]:
            assert (await http.post(f"/playbooks/{key}/approve")).status_code == 200
        nothing: dict[str, object] = {"exposure_id": None, "advice": []}
        ask = {"endpoint": ENDPOINT}
        for facts, names in (({}, ["age_days", "zone"]), ({"zone": "b"}, ["age_days"]), ({"age_days": "9"}, ["zone"])):
            answer = await http.get("/advice", params={**ask, **facts})
            assert answer.json() == {**nothing, "depends_on": names}
        assert (await http.get("/advice", params={**ask, "zone": "b", "age_days": "9"})).json() == nothing
        told = await stub.GetAdvice(pb.GetAdviceRequest(endpoint=ENDPOINT))
        assert list(told.depends_on) == ["age_days", "zone"]


async def test_who_names_no_task_is_told_what_that_means(tmp_path: Path) -> None:
    """Over HTTP and gRPC, wherever the coin fell; not who names one, nor where nothing fits, so nothing counts."""
    async with service(tmp_path) as (running, stub, _), client(running) as http:
        entry = {"kind": "do", "endpoint": ENDPOINT, "text": "Set it.", "when": {"zone": "a"}, "set": {"shift": "day"}}
        body = {"format": "observer.playbook/1", "entries": [entry]}
        (key,) = (await http.post("/playbooks/import", json=body)).json()["imported"]
        assert (await http.post(f"/playbooks/{key}/approve")).status_code == 200
        ask = {"endpoint": ENDPOINT, "zone": "a"}
        for _ in range(3):
            (hint,) = (await http.get("/advice", params=ask)).json()["hints"]
            assert hint.startswith("no `task`: ")
        told = await stub.GetAdvice(pb.GetAdviceRequest(endpoint=ENDPOINT, facts={"zone": pb.Scalar(string_value="a")}))
        assert list(told.hints) == [hint]
        assert "hints" not in (await http.get("/advice", params={**ask, "task": "t-1"})).json()
        assert "hints" not in (await http.get("/advice", params={"endpoint": ENDPOINT, "zone": "b"})).json()


@pytest.mark.parametrize("name", sorted(PARAMETERS))
async def test_an_input_that_is_called_like_a_parameter_is_asked_about_with_a_prefix(tmp_path: Path, name: str) -> None:
    """`depends_on` says so, also over gRPC; asked so it is advised; and so says the error of a wrong parameter."""
    async with service(tmp_path) as (running, stub, _), client(running) as http:
        entry = {"kind": "do", "endpoint": ENDPOINT, "text": "x", "when": {name: "all"}, "set": {name: "page"}}
        body = {"format": "observer.playbook/1", "entries": [entry]}
        (key,) = (await http.post("/playbooks/import", json=body)).json()["imported"]
        assert (await http.post(f"/playbooks/{key}/approve")).status_code == 200
        prefixed = f"features.{name}"
        ask = {"endpoint": ENDPOINT, "limit": "5", "task": "all", "given": "all"}
        assert (await http.get("/advice", params=ask)).json()["depends_on"] == [prefixed]
        assert list((await stub.GetAdvice(pb.GetAdviceRequest(endpoint=ENDPOINT))).depends_on) == [prefixed]
        assert (await http.get("/advice", params={**ask, prefixed: "all"})).json()["exposure_id"] is not None
        for each in (name, prefixed):
            facts = {each: pb.Scalar(string_value="all")}
            assert (await stub.GetAdvice(pb.GetAdviceRequest(endpoint=ENDPOINT, facts=facts))).exposure_id
        fixed = {**ask, prefixed: "all", "given": name}
        assert (await http.get("/advice", params=fixed)).json() == {"exposure_id": None, "advice": []}


async def test_an_input_that_is_called_like_a_field_is_learnt_and_asked_for_as_an_input(tmp_path: Path) -> None:
    """The job's state says nothing, the input of that name everything: advice is about the latter."""
    async with observer(tmp_path) as running, client(running) as http:
        dice = Random(3)
        for number, call in enumerate(calls(240)):
            features = {"state": "open" if call["features"]["certified"] else "shut"}
            job = {"state": dice.choice(["open", "shut"]), "task": f"w-{number}"}
            await http.post("/event", json={**call, "features": features, **job})
        await cycle(running)
        (entry,) = [each for each in (await http.get("/playbooks")).json()["playbooks"] if each.get("calls")]
        assert (entry["kind"], entry["when"]) == ("avoid", {"features.state": "shut"})
        assert entry["set"] == {"features.state": "open"}
        asked = {"endpoint": ENDPOINT, "state": "open"}
        needs = (await http.get("/advice", params={**asked, "features.state": "shut"})).json()
        has = (await http.get("/advice", params={**asked, "state": "shut", "features.state": "open"})).json()
        assert (needs["exposure_id"] is not None, has["exposure_id"]) == (True, None)


async def test_what_to_do_is_told_by_the_inputs_own_name_at_every_door(tmp_path: Path) -> None:
    """A program that sets what `set` says must not send a name of ours; the text says the same."""
    async with service(tmp_path) as (running, stub, _), client(running) as http:
        dice = Random(5)
        for number in range(300):
            city = dice.choice(["Boise", "Denver", "Reno"])
            success = dice.random() < (0.05 if city == "Boise" else 0.95)
            call = {"endpoint": ENDPOINT, "success": success, "error": "closed", "features": {"city": city}}
            await http.post("/event", json={**call, "task": f"w-{number}"})
        await cycle(running)
        ask = {"endpoint": ENDPOINT, "city": "Boise"}
        assert (await http.get("/advice", params={"endpoint": ENDPOINT})).json()["depends_on"] == ["city"]
        task, answer = await shown(http, ask)
        (item,) = answer["advice"]
        assert (item["when"], list(item["set"])) == ({"city": "Boise"}, ["city"])
        assert item["text"].startswith('Avoid city="Boise": ')
        assert item["text"].endswith(f' Rather set city="{item["set"]["city"]}".')
        asked = pb.GetAdviceRequest(endpoint=ENDPOINT, task=task)
        asked.facts["city"].string_value = "Boise"
        (same,) = (await stub.GetAdvice(asked)).advice
        assert (same.text, list(same.when), list(same.set)) == (item["text"], ["city"], ["city"])
        exposures = len(journal(tmp_path, "decisions.jsonl"))
        for number in range(20):
            fixed = await http.get("/advice", params={**ask, "task": f"g-{number}", "given": "city"})
            assert fixed.json() == {"exposure_id": None, "advice": []}
        assert len(journal(tmp_path, "decisions.jsonl")) == exposures


async def test_a_task_keeps_its_coin(tmp_path: Path) -> None:
    """Asked again it is told the same, and counts once, also after a restart."""
    async with observer(tmp_path, draw=Random(1).random) as running, client(running) as http:
        await learnt(running, http)
        first = [(await http.get("/advice", params={**ASK, "task": f"t-{n}"})).json()["advice"] for n in range(12)]
        again = [(await http.get("/advice", params={**ASK, "task": f"t-{n}"})).json()["advice"] for n in range(12)]
        assert first == again
        assert {len(advice) for advice in first} == {0, 1}
    async with observer(tmp_path) as running, client(running) as http:
        again = [(await http.get("/advice", params={**ASK, "task": f"t-{n}"})).json()["advice"] for n in range(12)]
        assert first == again
        measured = (await http.get("/stats")).json()["advice"]["measured"]
        assert measured["shown"]["assigned"] + measured["withheld"]["assigned"] == 12


async def test_the_first_call_afterwards_is_the_outcome(tmp_path: Path) -> None:
    """Found by its task; a second one, and one at another endpoint, change nothing."""
    async with observer(tmp_path) as running, client(running) as http:
        await learnt(running, http)
        task, _ = await shown(http)
        for endpoint, success in (("/other", False), (ENDPOINT, True), (ENDPOINT, False)):
            await http.post("/event", json={"endpoint": endpoint, "success": success, "task": task})
        measured = (await http.get("/stats")).json()["advice"]["measured"]
        assert (measured["shown"]["tasks"], measured["shown"]["successes"]) == (1, 1)
        (entry,) = [each for each in (await http.get("/playbooks")).json()["playbooks"] if each.get("calls")]
        assert entry["measured"]["shown"]["tasks"] == 1


async def test_an_agent_reports_and_its_word_is_counted_apart(tmp_path: Path) -> None:
    """A report on an unknown exposure is 404; a wrong body 422; a call that is seen later takes the report's place."""
    async with observer(tmp_path) as running, client(running) as http:
        await learnt(running, http)
        task, answer = await shown(http)
        door = f"/advice/{answer['exposure_id']}/outcome"
        assert (await http.post(door, json={"success": "yes"})).status_code == 422
        assert (await http.post("/advice/ex-none/outcome", json={"success": True})).status_code == 404
        assert (await http.post(door, json={"success": True})).json() == {"accepted": True}
        measured = (await http.get("/stats")).json()["advice"]["measured"]["shown"]
        assert (measured["tasks"], measured["reported"]) == (0, 1)
        await http.post("/event", json={"endpoint": ENDPOINT, "success": False, "task": task})
        measured = (await http.get("/stats")).json()["advice"]["measured"]["shown"]
        assert (measured["tasks"], measured["successes"], measured["reported"]) == (1, 0, 0)


@pytest.mark.parametrize("action", ["approve", "retire", "restore"])
async def test_a_person_decides(tmp_path: Path, action: str) -> None:
    """It is in the journal and in the entry's history, and takes effect at once; an unknown entry is 404."""
    state = {"approve": "active", "retire": "retired", "restore": "candidate"}[action]
    async with observer(tmp_path) as running, client(running) as http:
        (entry,) = await learnt(running, http)
        assert (await http.post(f"/playbooks/pb-none/{action}")).status_code == 404
        door = f"/playbooks/{entry['playbook_id']}/{action}"
        for wrong in ({"version": True}, {"version": 0}, {"why": 1}, {"who": "me"}, {"by": "observer"}):
            assert (await http.post(door, json=wrong)).status_code == 422
        for wrong in ({"note": "x" * 1001}, {"by": "x" * 101}, {"note": "one", "why": "other"}):
            assert (await http.post(door, json=wrong)).status_code == 422
        assert (await http.post(door, json={"version": 2})).status_code == 404
        if action == "restore":
            assert (await http.post(door)).status_code == 409
            assert (await http.post(door.replace(action, "retire"))).status_code == 200
        said = {"why": "I looked, password=hunter2", "by": " ann password=hunter2", "version": 1.0}
        done = (await http.post(door, json=said)).json()
        assert done["state"] == state
        *earlier, change = done["changes"]
        assert (change["action"], change["by"], change["why"]) == (action, "person", "I looked, password=[redacted]")
        assert change["who"] == "ann password=[redacted]"
        answers = [(await http.get("/advice", params={**ASK, "task": f"t-{n}"})).json() for n in range(20)]
        assert any(answer["exposure_id"] for answer in answers) is (action != "retire")
        lines = [line["body"] for line in journal(tmp_path, "decisions.jsonl") if line["kind"] == "playbook_change"]
        assert lines == [*earlier, change]
        before = (await http.get("/playbooks", params={"as_of": entry["at"]})).json()["playbooks"]
        assert [each["state"] for each in before if each["playbook_id"] == entry["playbook_id"]] == ["candidate"]


async def test_a_reader_of_the_playbook_is_known_by_the_task_of_its_ops(tmp_path: Path) -> None:
    """The name is masked as in ops: it is written down, and compared with theirs."""
    async with observer(tmp_path) as running, client(running) as http:
        assert (await http.get("/playbooks", params={"task": "t password=hunter2"})).status_code == 200
    (said,) = [line["body"] for line in journal(tmp_path, "decisions.jsonl") if line["kind"] == INFORMED]
    assert said["task"] == "t password=[redacted]"


async def test_advice_over_grpc_is_that_of_http(tmp_path: Path) -> None:
    """The same task has the same coin by either door; values keep their type; what is refused there is refused here."""
    async with service(tmp_path) as (running, stub, _), client(running) as http:
        await learnt(running, http)
        task, answer = await shown(http)
        facts = {"certified": pb.Scalar(bool_value=False)}
        told = await stub.GetAdvice(pb.GetAdviceRequest(endpoint=ENDPOINT, task=task, facts=facts))
        (item,) = told.advice
        assert (item.id, item.text) == (answer["advice"][0]["id"], answer["advice"][0]["text"])
        assert (item.set["certified"].bool_value, item.set["certified"].WhichOneof("kind")) == (True, "bool_value")
        await stub.ReportOutcome(pb.ReportOutcomeRequest(exposure_id=told.exposure_id, success=True))
        assert (await http.get("/stats")).json()["advice"]["measured"]["shown"]["reported"] == 1
        for request, code in (
            (pb.GetAdviceRequest(), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.GetAdviceRequest(endpoint="/x", limit=-1), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.GetAdviceRequest(endpoint="/x", given=["a"] * 65), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.GetAdviceRequest(endpoint="/" + "x" * 65_536), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.GetAdviceRequest(endpoint="/x", given=["a" * 65_536]), grpc.StatusCode.INVALID_ARGUMENT),
            (pb.GetAdviceRequest(endpoint="/x", facts={"x" * 65_536: pb.Scalar()}), grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.GetAdvice(request)
            assert refused.value.code() == code
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ReportOutcome(pb.ReportOutcomeRequest(exposure_id="ex-none"))
        assert refused.value.code() == grpc.StatusCode.NOT_FOUND


async def test_what_cannot_be_written_down_in_time_is_not_told(tmp_path: Path) -> None:
    """503 with Retry-After and nothing of the advice; when the disk is back, the coin that fell then still counts."""
    faulty = FaultyFile.fresh()
    async with observer(tmp_path, open_file=faulty, OBSERVER_ADVICE_TIMEOUT="2") as running, client(running) as http:
        await learnt(running, http)
        faulty.open_gate.clear()
        answer = await http.get("/advice", params=ASK)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "certified" not in answer.text
        other = await http.get("/advice", params={**ASK, "certified": "true"})
        assert other.json() == {"exposure_id": None, "advice": []}
        faulty.open_gate.set()
        await running.learning.advisor.idle()
        await running.books.in_order.caught_up()
        (written,) = [line["body"] for line in journal(tmp_path, "decisions.jsonl") if line["kind"] == "exposure"]
        again = (await http.get("/advice", params=ASK)).json()
        assert bool(again["advice"]) is written["assignments"][0]["shown"]
        stats = (await http.get("/stats")).json()["advice"]
        assert (stats["undecided"], stats["open"]) == (1, 1)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "endpoint is missing"),
        ({"endpoint": "/x", "limit": "5000"}, "limit='5000' is not usable: expected a number from 1 to 1000."),
        ({"endpoint": "/x", "limit": "0"}, "An input of that name is asked about as features.limit. See"),
        ({"endpoint": "/x", "task": "t" * 257}, "1 to 256 characters"),
        ({"endpoint": "/x", **{f"f{number}": "1" for number in range(65)}}, "65 features"),
        ({"endpoint": "/x", "given": ",".join(f"f{number}" for number in range(65))}, "65 features"),
        ([("endpoint", "/x"), ("a", "1"), ("a", "2")], "given once"),
    ],
)
async def test_a_wrong_question_is_refused(tmp_path: Path, params: Any, said: str) -> None:
    """422, and what is wrong with it."""
    async with observer(tmp_path) as running, client(running) as http:
        answer = await http.get("/advice", params=params)
        assert answer.status_code == 422
        assert said in answer.json()["error"]


async def test_doors_of_learning_ask_for_their_scopes(tmp_path: Path) -> None:
    """A token for advice neither reads the playbook nor decides on it."""
    tokens = tmp_path / "tokens"
    tokens.write_text("a advice\nr read\n")
    async with observer(tmp_path, OBSERVER_TOKEN_FILE=str(tokens)) as running, client(running) as http:
        for token, path, method, status in (
            ("a", "/advice?endpoint=/x", "GET", 200),
            ("r", "/advice?endpoint=/x", "GET", 403),
            ("a", "/playbooks", "GET", 403),
            ("r", "/playbooks", "GET", 200),
            ("r", "/playbooks/pb-1/approve", "POST", 403),
            ("r", "/playbooks/import", "POST", 403),
            ("r", "/advice/ex-1/outcome", "POST", 403),
        ):
            answer = await http.request(method, path, headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == status, (token, path)


async def test_cycles_in_which_nothing_happened_leave_no_mark(tmp_path: Path) -> None:
    """An idle observer's journal does not grow."""
    async with observer(tmp_path) as running, client(running) as http:
        await learnt(running, http)
        marks = [line["kind"] for line in journal(tmp_path, "decisions.jsonl")].count("cycle")
        for _ in range(3):
            await cycle(running)
        assert [line["kind"] for line in journal(tmp_path, "decisions.jsonl")].count("cycle") == marks == 1
