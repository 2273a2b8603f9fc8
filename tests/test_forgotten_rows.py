"""What single rows, decisions and texts keep once one person is taken out of them."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.rules import RuleBook
from sidecar.langfuse.book import LangfuseBook
from sidecar.model import Fragment, LangfuseTold, ObservedOp, Score
from sidecar.packed import numbers
from sidecar.store.forgotten_person import Person
from sidecar.store.forgotten_rows import CleanedRows

WORDS = st.text(st.sampled_from("abcdé XYZ.,:-019\n"), min_size=1, max_size=30)


def op(**fields: Any) -> ObservedOp:
    made = {"timestamp": "t", "endpoint": "/a", "input_summary": "", "success": True, "duration_ms": 1}
    return ObservedOp(**{**made, "output_summary": "", **fields})


@given(st.lists(WORDS, max_size=4), st.lists(WORDS, max_size=4), WORDS, WORDS)
def test_words_of_theirs_alone_are_masked_wherever_they_stand(
    theirs: list[str], others: list[str], before: str, behind: str
) -> None:
    """Of the same length, and once masked they stay so; what others said stays as it is."""
    person = Person("st-17")
    for text in theirs:
        person.learn(op(staffer_id="st-17", error=text))
    for text in others:
        person.unlearn(op(staffer_id="co-1", error=text))
    own = [line.strip(" .,:-") for text in theirs for line in text.split("\n")]
    said = [line.strip(" .,:-") for text in others for line in text.split("\n")]
    for text in own:
        whole = f"{before} | {text} | {behind}"
        masked = person.masked(whole)
        assert len(masked) == len(whole)
        assert person.masked(masked) == masked
        if text not in said and len(text) >= 3 and any(map(str.isalpha, text)):
            assert text not in masked.split(" | ")
    alone = Person("st-17")
    alone.learn(op(staffer_id="st-17", error="Ada Lovelace has no licence at all"))
    assert alone.masked(before) == before
    assert alone.masked("why: Ada Lovelace has no lic") == f"why: {'*' * 23}"
    assert alone.masked("Ada Lovelace has no lic, but") == "Ada Lovelace has no lic, but"


def taught(name: str, *, restore: dict[str, bytes] | None = None) -> RuleBook:
    """A book that has seen Ada succeed always; others do so in the north alone."""
    book = RuleBook()
    book.load(restore or {})
    for number in range(1600):
        is_ada, zone = number % 4 == 0, "north" if number % 3 else "south"
        staffer = "st-17" if is_ada else f"co-{number % 7}"
        features: dict[str, Any] = {"customer": name if is_ada else f"Charles {number % 7}", "zone": zone}
        success = is_ada or (zone == "north" and number % 10 > 0)
        book.consume(op(success=success, staffer_id=staffer, features=features, task=f"t-{number}"))
        if not number % 100:
            for _ in book.learn():
                pass
    return book


def test_a_models_words_on_an_incident_of_theirs_go() -> None:
    """It may have quoted samples, in the text on all incidents and in that on each; counted texts quote none."""
    book = IncidentBook()
    for staffer in ("st-17", "co-1"):
        book.consume(op(success=False, error="no seat", staffer_id=staffer))
    (incident,) = book.incidents()
    cleaned = CleanedRows(Person("st-17"), are_gone=False)
    for key, body in book.take_dirty().items():
        if key.startswith("incident/"):
            cleaned.look("incidents", key, body)
    told = {
        "incidents": {incident.fingerprint: 2},
        "text": "[/a] Ada",
        "texts": {incident.fingerprint: "[/a] Ada"},
        "context": "",
    }
    by_model = cleaned.decision("diagnosis", {**told, "by": "qwen"})
    assert "Ada" not in json.dumps(by_model)
    assert cleaned.decision("diagnosis", {**told, "by": "statistics"}) == {**told, "by": "statistics"}


def test_numbers_beside_a_cut_that_were_theirs_go() -> None:
    """Of the numbers stored as they are only the others' stay, and the rule tells the same."""
    book = RuleBook()
    for number in range(600):
        staffer, age = f"co-{number % 5}" if number % 4 else "st-17", number * 7 % 61
        book.consume(op(success=age <= 30, staffer_id=staffer, features={"age": age}, task=f"t-{number}"))
        if not number % 50:
            for _ in book.learn():
                pass
    key, body = next((key, body) for key, body in book.take_dirty().items() if key.startswith("rules/"))
    cleaned = CleanedRows(Person("st-17"), are_gone=True)
    cleaned.look("learning", key, body)
    kept = cleaned.row("learning", key, body)
    assert kept is not None
    before, after = (json.loads(each)["row"] for each in (body, kept[1]))
    left, right = (list(numbers(b64decode(each["sheet"]["fields"]["age"]["early"]))) for each in (before, after))
    assert right == [(at, age) for at, age in left if at % 4]
    assert 0 < len(right) < len(left)
    assert before["borders"] == after["borders"] != []
    assert before["sheet"]["fields"]["age"]["parts"] == after["sheet"]["fields"]["age"]["parts"]


def test_rules_on_what_was_theirs_alone_are_void() -> None:
    """Neither sheet nor bets nor rules name them; rules on others' values stand, and the book learns on."""
    book = taught("Ada Lovelace")
    assert any("Ada Lovelace" in rule.text() or "st-17" in rule.text() for rule in book.report().rules)
    rows = book.take_dirty()
    cleaned = CleanedRows(Person("st-17"), are_gone=True)
    for key, body in rows.items():
        cleaned.look("learning", key, body)
    clean = dict(filter(None, (cleaned.row("learning", key, body) for key, body in rows.items())))
    assert [each for each in clean.values() if b"Ada" in each or b"st-17" in each] == []
    restored = RuleBook()
    restored.load(clean)
    assert restored.unusable == 0
    assert [rule.text().partition(" succeeds")[0] for rule in restored.report().rules] == [
        rule.text().partition(" succeeds")[0]
        for rule in book.report().rules
        if "Ada" not in rule.text() and "st-17" not in rule.text()
    ]
    again = taught("Grace", restore=clean)
    assert (again.not_counted, again.unusable) == (0, 0)
    assert any("zone" in rule.text() for rule in again.report().rules)


def test_rows_that_leave_out_what_is_empty_are_not_changed() -> None:
    """A sheet that begins anew has no columns, an inner node no templates: somebody unknown changes neither."""
    rows = CleanedRows(Person("nobody"), are_gone=False)
    rules = RuleBook()
    rules.consume(op())
    (body,) = [row for key, row in rules.take_dirty().items() if key.startswith("rules/")]
    saved = json.loads(body)
    saved["row"]["sheet"].pop("columns", None)
    for key, row in (("rules//a", json.dumps(saved).encode()), ("template/x", b'{"row":{"words":["a"]}}')):
        assert rows.row("learning", key, row) == (key, row)


def test_what_langfuse_told_of_their_traces_goes() -> None:
    """Rows go, decisions keep ids and times; other traces stay, and the book reads what is left."""
    theirs, others = "a" * 32, "b" * 32
    told = LangfuseTold(
        taken_ns=7,
        fragments=[
            Fragment(trace_id=theirs, told_ns=1, attributes={"user.id": "st-17"}),
            Fragment(trace_id=theirs, told_ns=1, span_id="1" * 16, name="ask Ada", attributes={"in": "I am Ada"}),
            Fragment(trace_id=others, told_ns=1, span_id="2" * 16, name="ask", attributes={"in": "I am Grace"}),
        ],
        scores=[Score(score_id="s", name="said", at="t", data_type="TEXT", value="Ada was rude", trace_id=theirs)],
    )
    book = LangfuseBook()
    book.apply_told(msgspec.json.encode(told))
    rows = CleanedRows(Person("st-17"), are_gone=False)
    saved = book.take_dirty()
    for key, body in saved.items():
        rows.look("langfuse", key, body)
    left = [rows.row("langfuse", key, body) for key, body in saved.items()]
    assert [row[0] for row in left if row is not None] == [f"open/{others}{'2' * 16}"]
    body = rows.decision("langfuse_told", json.loads(msgspec.json.encode(told)))
    clean = msgspec.convert(body, LangfuseTold)
    assert b"Ada" not in msgspec.json.encode(clean)
    assert b"I am Grace" in msgspec.json.encode(clean)
    assert [each.trace_id for each in clean.fragments] == [theirs, theirs, others]


def test_a_name_that_is_a_word_of_ours_breaks_nothing() -> None:
    """Whoever is called like a state, a member or an action: decisions can be read as before."""
    person = Person("st-17")
    for name in ("active", "approve", "values", "text", "kind", "playbook_id", "person"):
        person.learn(op(staffer_id="st-17", features={"name": name}))
    rows = CleanedRows(person, are_gone=True)
    change = {"playbook_id": "pb-1", "at": "t", "action": "approve", "by": "person", "version": 1, "why": "it helps"}
    assert rows.decision("playbook_change", change) == change
    assert rows.decision("incidents", {"changes": [{"kind": "failure", "text": "text"}]}) == {
        "changes": [{"kind": "failure", "text": "****"}]
    }
