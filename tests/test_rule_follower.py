"""From rules to entries: what a cycle proposes, and how conditions become terms."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from sidecar.advice.fit import fit
from sidecar.analysis.playbook_book import PlaybookBook
from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_entries import rule_entry, rule_entry_id, terms
from sidecar.analysis.rule_findings import Finding
from sidecar.analysis.rule_follower import MISSING_CYCLES, RuleFollower
from sidecar.analysis.rule_standing import Rule
from sidecar.analysis.rules import RuleBook, RuleReport
from sidecar.call_fields import facts_of, names_of
from sidecar.demo.staffing_rules import (
    CHANNELS,
    CITIES,
    ROLES,
    StaffingCall,
    capacity_refusal,
    certificate_refusal,
    channel_refusal,
    city_refusal,
    pace,
)
from sidecar.model import ObservedOp
from sidecar.model_learning import AdviceQuery, EntryChange, EntryRow, PlaybookEntry, Range
from sidecar.plain_words import is_plain
from tests.fakes import an_op
from tests.test_playbook_book import A, B, a_change, an_entry, asked, moment


def a_rule(*conditions: Condition, rate: int = 10, **fields: Any) -> Rule:
    plain: dict[str, Any] = {"n": 100, "successes": rate, "others": 100, "other_successes": 60, "low": 0, "high": 0}
    return Rule(endpoint="/fill", conditions=conditions, log_e=9.0, since="", seen="", **{**plain, **fields})


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


def test_an_entry_whose_rule_says_the_opposite_is_retired_before_that_is_told() -> None:
    """At no moment between two decisions are both told; and what the numbers turn back to is told again."""
    bench = Bench()
    assert bench.cycle(a_rule(A, rate=20)) == ["a=x v1"]
    assert bench.cycle(a_rule(A, rate=95)) == ["retire", "a=x v1"]
    kinds = {row.latest.kind: row.state for row in bench.playbook.rows()}
    assert kinds == {"avoid": "retired", "do": "candidate"}
    (row,) = [row for row in bench.playbook.rows() if row.state == "retired"]
    assert row.changes[-1].why == "its rule now says the opposite"
    assert bench.cycle(a_rule(A, rate=20)) == ["retire", "restore"]


def test_rates_that_do_not_show_the_rule_are_no_entry() -> None:
    """Other rules may hide or turn its difference; two rates alike, or within chance, claim nothing."""
    bench = Bench()
    alike = {"n": 88, "successes": 46, "others": 639, "other_successes": 332}
    turned = {"n": 100, "successes": 40, "others": 500, "other_successes": 300, "is_better": True}
    for fields in (alike, turned, {"successes": 50}, {"n": 0, "successes": 0}):
        rule = a_rule(A, **fields)
        assert not rule.is_shown
        assert bench.cycle(rule) == []
    assert a_rule(A, n=100, successes=40, others=500, other_successes=300, is_better=False).is_shown
    assert bench.cycle(a_rule(A)) == ["a=x v1"]
    assert [bench.cycle(a_rule(A, **alike)) for _ in range(MISSING_CYCLES)] == [[], [], ["retire"]]


def fill_shift(dice: Random) -> ObservedOp:
    """A call of the demo's gateway, and what it says: the slow city's effect is hidden by the certificate's."""
    (city,) = dice.choices(CITIES, (4, 3, 4, 3, 3, 3, 3, 2, 2))
    count, certified, channel = dice.randint(1, 9), dice.random() < 0.5, dice.choice(CHANNELS)
    body: dict[str, Any] = {"city": city.name, "state": city.state, "count": count, "role": dice.choice(ROLES)}
    call = StaffingCall(**body, certified=certified, channel=channel)
    refused = city_refusal(call, dice) or certificate_refusal(call, dice) or channel_refusal(call, dice)
    failed = refused or capacity_refusal(call, "s", 6) or pace(call, dice).gives_up
    return an_op(endpoint="/fill", success=not failed, features=body | {"certified": certified, "channel": channel})


def test_in_the_demo_no_entry_contradicts_its_rates_or_another() -> None:
    """Whatever is told after any cycle differs by ten points and more, and has no opposite beside it."""
    for seed in (0, 4):
        dice, rules, playbook = Random(seed), RuleBook(), PlaybookBook()
        follower = RuleFollower(rules, playbook)
        for number in range(1, 1201):
            rules.consume(fill_shift(dice))
            if number % 20:
                continue
            for _ in rules.learn():
                pass
            for proposal in follower.proposals(moment(1)):
                if isinstance(proposal, PlaybookEntry):
                    playbook.keep(proposal)
                elif proposal is not None:
                    playbook.change(proposal)
                live = [row.latest for row in playbook.rows() if row.state != "retired"]
                assert len({tuple(entry.scope) for entry in live}) == len(live), [entry.text for entry in live]
                assert all(abs((entry.rate or 0) - (entry.other_rate or 0)) > 0.1 for entry in live), number
        assert len(live) >= 3


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
