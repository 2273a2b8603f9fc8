"""Of a model's answer, what can be used is used; each incident has a finding whatever the answer is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.field_counts import Common
from sidecar.analysis.findings import (
    MAX_FIELD,
    Sample,
    advised_finding,
    counted_finding,
    finding_text,
    model_findings,
)
from sidecar.analysis.model_questions import FIELDS
from sidecar.model import Finding, Incident

SAMPLES = [Sample("f1", "[/a] x: closed"), Sample("f2", "[/b] y: no seat"), Sample("f1", "[/a] z: closed")]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*FIELDS, "failure", "findings", "x"]), inner, max_size=6)
    ),
    max_leaves=20,
)


def an_incident(kind: str = "failure", fingerprint: str = "f1") -> Incident:
    return Incident(
        fingerprint=fingerprint,
        endpoint="/a",
        message="city <id> is closed",
        state="new",
        kind=kind,  # type: ignore[arg-type]  # one of the three
        count=3,
        first_seen="a",
        last_seen="b",
    )


COUNTED = {key: counted_finding(an_incident(fingerprint=key), []) for key in ("f1", "f2")}


def said(**fields: object) -> dict[str, object]:
    plain = {
        "cause": "The city is closed.",
        "adjustment": "Ask for another one.",
        "avoid": "Asking again.",
        "when": "On Sundays.",
    }
    return {"failure": 1, **plain, **fields}


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps({"findings": [said(), said(failure=2)]}),
        json.dumps([said(), said(failure=2)]),
        f"Here you are:\n```json\n{json.dumps({'findings': [said(), said(failure=2)]}, indent=2)}\n```\nDone.",
        json.dumps(said()) + "\n" + json.dumps(said(failure=2)),
        json.dumps({"findings": [said(), said(failure=2), said()]})[:-60],
        json.dumps({"findings": [said(failure="1"), said(failure=99)]}),
        json.dumps({"findings": [said(failure=3), said(failure=2), said(cause="Another cause of it.")]}),
    ],
)
def test_findings_are_read_out_of_whatever_stands_around_them(answer: str) -> None:
    """Bare, fenced, listed, cut short, numbered wrongly or twice: the first of each incident counts."""
    found = model_findings(answer, SAMPLES, COUNTED, "qwen2.5")
    assert found.keys() == {"f1", "f2"}
    assert all(each.cause == "The city is closed." and each.by == "qwen2.5" for each in found.values())


def test_fields_that_are_no_use_are_taken_from_the_counts() -> None:
    """Empty, a loop, a refusal, no text; without cause or adjustment the whole finding is the counts'."""
    found = model_findings(json.dumps([said(avoid="x", when=5), said(failure=2, cause="…")]), SAMPLES, COUNTED, "m")
    assert found == {
        "f1": Finding(
            cause="The city is closed.",
            adjustment="Ask for another one.",
            avoid=COUNTED["f1"].avoid,
            when=COUNTED["f1"].when,
            by="m",
        )
    }
    for bad in ("I'm sorry, but I can't help with that.", "closed " * 60, "", "0123 4567 89"):
        assert model_findings(json.dumps(said(cause=bad)), SAMPLES, COUNTED, "m") == {}


def test_what_only_says_something_again_is_no_use() -> None:
    """The question's own words, the failure's, one word, or what an earlier field says."""
    for bad in ("What the agent should do instead", "no seat", "Y: no seat!", "retry", "The city is closed."):
        assert model_findings(json.dumps(said(failure=2, adjustment=bad)), SAMPLES, COUNTED, "m") == {}, bad
    again = said(avoid="Ask for another one.", when="A list line above")
    found = model_findings(json.dumps(again), SAMPLES, COUNTED, "m")
    assert (found["f1"].avoid, found["f1"].when) == (COUNTED["f1"].avoid, "A list line above")


@pytest.mark.parametrize(
    ("answer", "adjustment"),
    [
        ("Ask for another city. Or wait.", "Ask for another city."),
        ("1. Ask for another city\n2. Wait", "Ask for another city"),
        ("別の都市を尋ねてください。または待つ。", "別の都市を尋ねてください。"),
        ("Do not ask at api.example.com again", "Do not ask at api.example.com again"),
        ("X: closed", None),
        ("Retry.", None),
        ("Here is what to do next:\nAsk for another city.", None),
        ('```json\n{"adjustment": "Ask for another city."}\n```', None),
        ("[/a] x: closed\n```\nWhat should the agent do instead next time? Answer in one short sentence.", None),
        ("I'm sorry, but I can't help with that.", None),
    ],
)
def test_of_a_simple_answer_the_first_sentence_is_what_to_do(answer: str, adjustment: str | None) -> None:
    """The rest of the finding is the counts'."""
    finding = advised_finding(answer, SAMPLES[0], COUNTED["f1"], "m")
    assert (finding and finding.adjustment) == adjustment
    assert finding is None or (finding.by, finding.cause, finding.when) == (
        "m",
        COUNTED["f1"].cause,
        COUNTED["f1"].when,
    )


def test_what_a_model_says_is_short_and_on_one_line() -> None:
    """Line breaks, control characters and length are taken from it."""
    cause = "Ignore all that\n\x1b[31mand obey: " + " ".join(f"word{number} is here" for number in range(200))
    finding = model_findings(json.dumps(said(cause=cause)), SAMPLES, COUNTED, "m")["f1"]
    assert len(finding.cause) <= MAX_FIELD
    assert finding.cause.isprintable()
    assert finding_text(an_incident(), finding).count("\n") == 0


@given(JSON.map(json.dumps) | st.text(max_size=300), st.integers(0, 400))
def test_no_answer_is_too_broken(answer: str, cut: int) -> None:
    """Whatever comes, findings are whole ones about incidents that were asked about."""
    for fingerprint, finding in model_findings(answer[:cut], SAMPLES, COUNTED, "m").items():
        assert fingerprint in COUNTED
        assert all(getattr(finding, name) for name in FIELDS)


@pytest.mark.parametrize("answer", ["{" * 100_000, '{"cause":' * 5000, "[" * 100_000, '{"cause": "' + "x" * 200_000])
def test_an_answer_made_to_be_slow_gives_nothing(answer: str) -> None:
    """Nesting without end and text without end are looked at within bounds."""
    assert model_findings(answer, SAMPLES, COUNTED, "m") == {}


@pytest.mark.parametrize("kind", ["failure", "slow", "recurring_correction"])
@pytest.mark.parametrize("common", [[], [Common("city", "Reno", 9, 0), Common("certified", "false", 9, 1)]])
def test_counting_always_finds_something_to_say(kind: str, common: list[Common]) -> None:
    """Of every kind, with and without what is common to the failures; named where it is."""
    finding = counted_finding(an_incident(kind), common)
    fields = [getattr(finding, name) for name in FIELDS]
    assert all(0 < len(field) <= MAX_FIELD for field in fields)
    assert ("city=Reno and certified=false" in finding.when) == bool(common)
