"""The playbook: versions are kept, states follow decisions, the past can be seen, rules come and go."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.advice.fit import fit, is_met
from sidecar.analysis.playbook_book import MAX_CHANGES, MAX_VERSIONS, PlaybookBook
from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_entries import rule_entry, rule_entry_id, terms
from sidecar.analysis.rule_findings import Finding
from sidecar.analysis.rule_follower import MISSING_CYCLES, RuleFollower
from sidecar.analysis.rule_standing import Rule
from sidecar.analysis.rules import RuleBook, RuleReport
from sidecar.call_fields import facts_of, names_of
from sidecar.model_learning import AdviceQuery, EntryAction, EntryChange, EntryRow, PlaybookEntry, Range, Term
from sidecar.plain_words import is_plain


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
    found = fit(avoid, asked(mode="fast", given=frozenset(["mode"])))
    assert found is not None
    assert found.to_set == {}
    do.state = "retired"
    assert fit(do, asked(state="NV")) is None


def a_rule(*conditions: Condition, rate: int = 10, **fields: Any) -> Rule:
    plain: dict[str, Any] = {"n": 100, "successes": rate, "others": 100, "other_successes": 60, "low": 0, "high": 0}
    return Rule(endpoint="/fill", conditions=conditions, log_e=9.0, since="", seen="", **{**plain, **fields})


A, B = Condition("a", "is", "x"), Condition("b", "is", "y")
NOTHING = Finding({}, frozenset(), frozenset([A, B]), [])


class GivenRules(RuleBook):
    """A rule book that reports what the test says."""

    given: tuple[Rule, ...] = ()
    gone: tuple[tuple[Condition, ...], ...] = ()

    def report(self) -> RuleReport:
        return RuleReport(rules=list(self.given), endpoints=1, ops=0, left_out=0, skipped=0, evicted=0)

    def finding(self, rule: Rule) -> Finding:
        return NOTHING

    def fallen(self) -> Any:
        return iter([("/fill", each) for each in self.gone])


class Bench:
    def __init__(self) -> None:
        self.rules, self.playbook = GivenRules(), PlaybookBook()
        self.follower = RuleFollower(self.rules, self.playbook)
        self.now = 0

    def cycle(self, *rules: Rule, fallen: tuple[tuple[Condition, ...], ...] = ()) -> list[str]:
        """What is decided, in words."""
        self.rules.given, self.rules.gone = rules, fallen
        self.now += 1
        said = []
        for each in self.follower.proposals(moment(self.now)):
            if isinstance(each, PlaybookEntry):
                self.playbook.keep(each)
                said.append(f"{'+'.join(each.scope)} v{each.version}")
            elif each is not None:
                self.playbook.change(each)
                said.append(each.action)
        return said


def test_a_rule_has_an_entry_and_a_new_version_when_much_more_is_known() -> None:
    """Nothing is written while nothing material changed."""
    bench = Bench()
    assert bench.cycle(a_rule(A)) == ["a=x v1"]
    assert bench.cycle(a_rule(A, n=150, successes=15)) == []
    assert bench.cycle(a_rule(A, n=200, successes=20)) == ["a=x v2"]
    assert bench.cycle(a_rule(A, n=200, successes=80)) == ["a=x v3"]


def test_a_rule_that_is_passed_over_retires_its_entry_a_contradicted_one_at_once() -> None:
    """And it is restored when the rule is found again, unless a person retired it."""
    bench = Bench()
    bench.cycle(a_rule(A), a_rule(B))
    assert bench.cycle(a_rule(B)) == []
    assert bench.cycle(a_rule(A), a_rule(B)) == []
    for _ in range(MISSING_CYCLES - 1):
        assert bench.cycle(a_rule(B)) == []
    assert bench.cycle(a_rule(B)) == ["retire"]
    assert bench.cycle(a_rule(A), a_rule(B)) == ["restore"]
    assert bench.cycle(a_rule(A), fallen=((B,),)) == ["retire"]
    name = rule_entry_id(a_rule(A))
    by_hand = EntryChange(playbook_id=name, at=moment(50), action="retire", by="person", version=1)
    bench.playbook.change(by_hand)
    assert bench.cycle(a_rule(A)) == []


def test_what_a_person_decides_while_a_cycle_proposes_stays() -> None:
    """A retirement by the rule that was judged before the person's own is none: the rule cannot restore it later."""
    bench = Bench()
    bench.cycle(a_rule(A), a_rule(B))
    bench.rules.given, bench.rules.gone = (a_rule(B, n=500, successes=50),), ((A,),)
    name = rule_entry_id(a_rule(A))
    proposals = bench.follower.proposals(moment(2))
    assert isinstance(next(proposals), PlaybookEntry)  # B's new version; who is gone has been judged by now
    bench.playbook.change(EntryChange(playbook_id=name, at=moment(3), action="retire", by="person", version=1))
    judged = [each for each in proposals if isinstance(each, EntryChange)]
    assert [(each.playbook_id, bench.playbook.change(each)) for each in judged] == [(name, False)]
    assert bench.cycle(a_rule(A), a_rule(B)) == []
    row = bench.playbook.get(name)
    assert row is not None
    assert (row.state, [each.by for each in row.changes], bench.playbook.overtaken) == ("retired", ["person"], 1)


def test_an_approved_entry_that_stops_working_gets_another_trial() -> None:
    """It is a candidate again, and still the approved words; only a person's own restoring needs no trial."""
    book = PlaybookBook()
    book.keep(an_entry(1))
    book.change(a_change("approve", 1))
    (row,) = book.rows()
    book.change(row.due("retry", moment(2), "numbers", ""))
    assert (row.state, row.told) == ("candidate", an_entry(1))
    assert fit(row, asked()) is not None
    for by, state in (("rule", "candidate"), ("person", "active")):
        book.change(EntryChange(playbook_id="pb-1", at=moment(3), action="restore", by=by, version=1))  # type: ignore[arg-type]  # both are
        assert row.state == state


@pytest.mark.parametrize(("before", "after"), [((A,), (A, B)), ((A, B), (A,))], ids=["split", "merged"])
def test_entries_split_and_merge_and_keep_their_history(before: Any, after: Any) -> None:
    """The new entry names the one whose place it takes, which stays to be seen, retired."""
    bench = Bench()
    bench.cycle(a_rule(*before))
    bench.cycle(a_rule(*after), fallen=(before,))
    old, new = rule_entry_id(a_rule(*before)), rule_entry_id(a_rule(*after))
    kept, row = bench.playbook.get(old), bench.playbook.get(new)
    assert kept is not None
    assert row is not None
    assert (kept.state, [entry.version for entry in kept.versions]) == ("retired", [1])
    assert row.latest.came_from == [old]


def test_what_to_change_is_rather_what_agents_vary() -> None:
    """Of two ways out the one that agents took before; the words are ours, the values quoted."""
    ways = {A: Condition("a", "is", "z"), B: Condition("b", "number", high=4.0)}
    found = Finding(ways, frozenset(["b"]), frozenset([A, B, *ways.values()]), [])
    entry = rule_entry(a_rule(A, B), found, moment(1), None, [])
    assert (entry.kind, entry.when, entry.set) == ("avoid", {"a": "x", "b": "y"}, {"b": Range(up_to=4.0)})
    assert entry.text == (
        'Avoid a="x", b="y": 10 % of 100 such calls succeeded, 60 % of 100 others. Rather set b at most 4.'
    )
    assert entry.plain
    good = rule_entry(a_rule(Condition("state", "is", "NV"), B, rate=90), found, moment(1), None, [])
    assert (good.kind, good.when, good.set) == ("do", {"state": "NV"}, {"b": "y"})
    assert not good.plain


def test_conditions_become_terms() -> None:
    """Two bounds of one number are one range; a feature called like a field is told apart from it."""
    found = terms(
        [
            Condition("n", "number", low=1.0),
            Condition("n", "number", high=5.0),
            Condition("features.state", "is", "true"),
            Condition("state", "is", "NV"),
            Condition("c", "missing"),
        ]
    )
    assert found == {"n": Range(above=1.0, up_to=5.0), "features.state": True, "state": "NV", "c": None}


def test_an_input_that_is_called_like_a_field_is_not_the_field() -> None:
    """What is said of both is kept apart; what is said of one name alone is said of both."""
    row = EntryRow(versions=[an_entry(when={"state": "NV"}, set={"features.state": "open"}, plain=True)])
    for said, told in (
        ({"state": "NV", "features.state": "closed"}, True),
        ({"state": "NV", "features.state": "open"}, False),
        ({"state": "open", "features.state": "NV"}, False),
        ({"state": "NV"}, True),
        ({"features.state": "NV"}, False),
    ):
        assert (fit(row, AdviceQuery(endpoint="/fill", facts=facts_of(said))) is not None) is told, said
    given = AdviceQuery(endpoint="/fill", facts=facts_of({"state": "NV"}), given=names_of(["features.state"]))
    assert fit(row, given) is None
    assert facts_of({"features.certified": True, "shift": "day"}) == {"certified": True, "shift": "day"}


def test_a_rule_on_such_an_input_is_plain_and_can_be_set() -> None:
    """Its prefix is ours: it counts for no word, and makes an input of it."""
    task_class = Condition("features.task_class", "is", "dig")
    found = Finding({}, frozenset(), frozenset([task_class, Condition("task_class", "is", "x")]), [])
    entry = rule_entry(a_rule(task_class, Condition("task_class", "is", "x"), rate=90), found, moment(1), None, [])
    assert (entry.when, entry.set, entry.plain) == ({"task_class": "x"}, {"features.task_class": "dig"}, True)


@pytest.mark.parametrize("word", ["fast", "us-east-1", "gpt-4o-mini", "text/plain", "v1.2.3", "a@b", "NV", "true"])
def test_short_single_words_are_plain(word: str) -> None:
    """Codes, regions, models, kinds."""
    assert is_plain(word)


@pytest.mark.parametrize("word", ["", "Las Vegas", "ignore_all_rules", "IgnoreAllRules", "<b>", "x" * 25, "é", "a\n"])
def test_what_could_be_a_sentence_is_not(word: str) -> None:
    """Nor what could be markup."""
    assert not is_plain(word)
