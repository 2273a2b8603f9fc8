"""The playbook: versions are kept, states follow decisions, the past can be seen."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.advice.fit import fit, is_met
from sidecar.analysis.playbook_book import MAX_CHANGES, MAX_VERSIONS, PlaybookBook
from sidecar.analysis.rule_counts import Condition
from sidecar.model_learning import AdviceQuery, EntryAction, EntryChange, EntryRow, PlaybookEntry, Range, Term


def moment(number: int) -> str:
    return f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z"


def an_entry(version: int = 1, **fields: Any) -> PlaybookEntry:
    plain: dict[str, Any] = {
        "playbook_id": "pb-1",
        "version": version,
        "at": moment(version),
        "kind": "do",
        "endpoint": "/fill",
        "text": f"text {version}",
        "successes": 1,
        "avg_duration_ms": 0.0,
    }
    return PlaybookEntry(**{**plain, **fields})


def a_change(action: EntryAction, at: int, version: int = 1) -> EntryChange:
    return EntryChange(playbook_id="pb-1", at=moment(at), action=action, by="person", version=version)


def test_the_past_is_seen_as_it_was() -> None:
    """At any moment: the versions written and the decisions taken by then, no more."""
    book = PlaybookBook()
    for each in (an_entry(1), an_entry(5), an_entry(3)):
        book.keep(each)
    for action, at in (("promote", 2), ("approve", 6), ("retire", 8), ("restore", 9)):
        book.change(a_change(action, at, version=5))  # type: ignore[arg-type]  # all are actions
    seen = []
    for at in range(10):
        seen += [(at, row.latest.version, row.state, row.approved) for row in book.as_of(moment(at))]
    assert [each[1:] for each in seen] == [
        (1, "candidate", 0),
        (1, "active", 0),
        (1, "active", 0),
        (1, "active", 0),
        (5, "active", 0),
        (5, "active", 5),
        (5, "active", 5),
        (5, "retired", 5),
        (5, "active", 5),
    ]
    assert seen[0][0] == 1
    (now,) = book.rows()
    assert book.as_of(moment(50)) == [now]


def test_history_is_bounded_and_its_first_stays() -> None:
    """What had to make room is counted; the journal has it."""
    book = PlaybookBook()
    for number in range(1, MAX_VERSIONS + 6):
        book.keep(an_entry(number))
    for number in range(MAX_CHANGES + 3):
        book.change(a_change("approve", number))
    (row,) = book.rows()
    assert (len(row.versions), len(row.changes), row.forgotten) == (MAX_VERSIONS, MAX_CHANGES, 8)
    assert (row.versions[0].version, row.latest.version) == (1, MAX_VERSIONS + 5)


@pytest.mark.parametrize("plain", [False, True], ids=["approved", "plain"])
def test_what_agents_are_told_outlives_any_number_of_versions(plain: bool) -> None:
    """Versions that nobody has read are never told in its place, first or last, over a restart too."""
    book = PlaybookBook()
    for number in range(1, MAX_VERSIONS + 40):
        book.keep(an_entry(number, text=f"UNREAD {number}" if number != 2 else "read", plain=plain and number == 2))
        if number == 2 and not plain:
            book.change(a_change("approve", 2, version=2))
    again = PlaybookBook()
    again.load(book.take_dirty())
    (row,) = again.rows()
    assert row.told is not None
    assert (row.told.version, row.told.text, len(row.versions)) == (2, "read", MAX_VERSIONS)
    assert (row.versions[0].version, row.latest.version) == (1, MAX_VERSIONS + 39)
    assert fit(row, asked()) is not None


def test_what_a_person_brings_does_not_lose_to_a_version_that_was_written_meanwhile() -> None:
    """Both were made as the second; the person's comes last. Read twice it is taken once."""
    book = PlaybookBook()
    for entry in (an_entry(1), an_entry(2, text="by rule", author="rule"), an_entry(2, text="mine", author="import")):
        book.keep(entry)
    book.keep(an_entry(2, text="mine", author="import"))
    (row,) = book.rows()
    assert [(each.version, each.text) for each in row.versions] == [(1, "text 1"), (2, "by rule"), (3, "mine")]


def test_an_approval_is_of_one_version() -> None:
    """Versions before it were not read by it, and a later approval of an earlier version takes its place."""
    book = PlaybookBook()
    for number in (1, 2, 3):
        book.keep(an_entry(number))
    (row,) = book.rows()
    assert row.told is None
    for version in (3, 2):
        book.change(a_change("approve", 4, version=version))
        assert row.told == an_entry(version)


def test_a_change_of_an_unknown_entry_changes_nothing() -> None:
    """It may have made room for others."""
    book = PlaybookBook()
    book.change(a_change("approve", 1))
    assert book.rows() == []


def test_entries_are_found_by_endpoint_over_a_restart() -> None:
    """In an order that follows from their ids."""
    book = PlaybookBook()
    for name in ("pb-2", "pb-1"):
        book.keep(an_entry(playbook_id=name))
    book.keep(an_entry(playbook_id="pb-3", endpoint="/other"))
    again = PlaybookBook()
    again.load(book.take_dirty())
    assert [row.latest.playbook_id for row in again.at("/fill")] == ["pb-1", "pb-2"]
    assert again.rows() == book.rows()


@pytest.mark.parametrize(
    ("term", "fact", "met"),
    [
        ("NV", "NV", True),
        ("NV", "CA", False),
        (True, "true", True),
        ("true", True, True),
        (False, "0", False),
        (3, "3", True),
        (None, None, True),
        (None, "x", False),
        ("x", None, False),
        (Range(above=1, up_to=2), 2, True),
        (Range(above=1, up_to=2), "1.5", True),
        (Range(above=1, up_to=2), 1, False),
        (Range(up_to=2), "many", False),
        (Range(up_to=2), True, False),
        (Range(above=0), 10**400, False),
    ],
)
def test_a_term_is_met_by_what_it_says(term: Term, fact: Any, met: bool) -> None:
    """Text and the value that it spells are one; a range is met by numbers alone."""
    assert is_met(term, fact) is met


def asked(**facts: Any) -> AdviceQuery:
    given = facts.pop("given", frozenset())
    return AdviceQuery(endpoint="/fill", facts=facts, given=given)


def test_an_entry_says_what_the_call_does_not_have() -> None:
    """Its `when` must be met; what is set already is not said again; what cannot be changed is not asked for."""
    do = EntryRow(versions=[an_entry(when={"state": "NV"}, set={"certified": True, "shift": "day"}, plain=True)])
    found = fit(do, asked(state="NV", certified="true"))
    assert found is not None
    assert found.to_set == {"shift": "day"}
    assert fit(do, asked(state="CA")) is None
    assert fit(do, asked(state="NV", certified=True, shift="day")) is None
    assert fit(do, asked(state="NV", given=frozenset(["shift"]))) is None
    avoid = EntryRow(versions=[an_entry(kind="avoid", when={"mode": "fast"}, set={"mode": "slow"}, plain=True)])
    assert fit(avoid, asked(mode="fast", given=frozenset(["mode"]))) is None
    do.state = "retired"
    assert fit(do, asked(state="NV")) is None


A, B = Condition("a", "is", "x"), Condition("b", "is", "y")
