"""Rules are found where they are, not where they are not, and go when the world changes."""

from __future__ import annotations

import json
import tracemalloc
from base64 import b64decode
from math import sin
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.analysis.rule_counts import MAX_COLUMNS, MAX_FIELDS, Sheet
from sidecar.analysis.rules import MAX_ENDPOINTS, RuleBook
from sidecar.model import ObservedOp, Scalar
from tests.fakes import an_op
from tests.rules_worlds import ENDPOINT, Features, an_outcome, conditions, false_alarm, learn, letters, live

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tau_bench_airline_gpt4o.jsonl"


def test_worlds_without_rules_get_none() -> None:
    """Of 14 runs at most 3 report a rule over 120 cycles (were it 5 % a run, more would be seen 4 times in 1,000)."""
    assert sum(false_alarm(seed, 120) for seed in range(14)) <= 3


@pytest.mark.parametrize("seed", range(4))
def test_a_rate_that_drifts_together_with_a_value_makes_no_rule(seed: int) -> None:
    """Mornings fail more and have more of `f0=a`; within any morning the value makes no difference."""
    dice, book = Random(seed), RuleBook()
    for number in range(2000):
        morning = 0.5 + 0.4 * sin(number / 150)
        features = letters(dice, 6) | {"f0": "a" if dice.random() < morning else "b"}
        book.consume(an_outcome(dice.random() >= 0.4 * morning, features))
        if not number % 20:
            learn(book)
            assert conditions(book) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_single_condition_is_found(seed: int) -> None:
    """One in three ops fails 45 points more often: 450 ops (150 of them with it) are enough; its wording is fixed."""
    book = RuleBook()
    live(book, Random(seed), 450, letters, lambda features: 0.6 if features["f3"] == "a" else 0.15)
    (rule,) = book.rules(ENDPOINT)
    assert conditions(book) == [{"f3=a"}]
    assert rule.rate < 0.6 < 0.75 < rule.other_rate
    assert rule.low < rule.rate - rule.other_rate < rule.high < 0
    assert rule.text() == (
        f"WHEN f3=a succeeds {rule.rate * 100:.0f} % (n={rule.n}), "
        f"without it {rule.other_rate * 100:.0f} % (n={rule.others})"
    )
    assert 430 <= rule.n + rule.others <= 450
    assert book.report().rules == [rule]


@pytest.mark.parametrize("together", [("f1", "f4"), ("f0", "f2", "f5")])
def test_conditions_that_only_work_together_are_found_together(together: tuple[str, ...]) -> None:
    """The conjunction is reported, each of its conditions, no other, and nothing beside it."""
    book = RuleBook()

    def fails(features: Features) -> float:
        return 0.6 if all(features[name] == "a" for name in together) else 0.1

    live(book, Random(1), 1600, lambda dice: letters(dice, 8, "ab"), fails)
    assert conditions(book) == [{f"{name}=a" for name in together}]


def test_two_rules_are_two_and_their_conjunction_is_none() -> None:
    """What each explains alone is not told again of both."""
    book = RuleBook()

    def fails(features: Features) -> float:
        return 0.05 + 0.35 * (features["f1"] == "a") + 0.35 * (features["f2"] == "b")

    live(book, Random(2), 1900, letters, fails)
    assert sorted(map(sorted, conditions(book))) == [["f1=a"], ["f2=b"]]


def test_a_shadow_of_the_cause_is_not_reported() -> None:
    """A field that mostly goes along with the cause separates as well, but tells nothing more."""

    def draw(dice: Random) -> Features:
        found = letters(dice, 6)
        found["shadow"] = found["f1"] if dice.random() < 0.9 else "abc"[int(dice.random() * 3)]
        found["twin"] = f"t-{found['f1']}"
        return found

    book = RuleBook()
    live(book, Random(3), 1900, draw, lambda features: 0.5 if features["f1"] == "a" else 0.1)
    assert conditions(book) == [{"f1=a"}]


def test_a_missing_value_is_a_value() -> None:
    """Ops without the field fail; the rule says so."""

    def draw(dice: Random) -> Features:
        found = letters(dice, 5) | {"zip": "89501"}
        if dice.random() < 0.3:
            del found["zip"]
        return found

    book = RuleBook()
    live(book, Random(4), 500, draw, lambda features: 0.1 if "zip" in features else 0.7)
    assert conditions(book) in ([{"zip missing"}], [{"zip=89501"}])


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_point_is_learned(seed: int) -> None:
    """Amounts above 100 fail: the cut point lies within a tenth of the amounts of it."""

    def draw(dice: Random) -> Features:
        return letters(dice, 5) | {"amount": round(dice.random() * 200, 2)}

    book = RuleBook()
    live(book, Random(seed), 900, draw, lambda features: 0.6 if float(features["amount"]) > 100 else 0.1)
    (rule,) = book.rules(ENDPOINT)
    (condition,) = rule.conditions
    assert condition.field == "amount"
    cut = condition.high if condition.low is None else condition.low
    assert cut is not None
    assert abs(cut - 100) <= 22


def test_an_interval_of_a_count_is_found() -> None:
    """Numbers with few values are told apart one by one: exactly three fails."""
    book = RuleBook()

    def draw(dice: Random) -> Features:
        return letters(dice, 4) | {"count": 1 + int(dice.random() * 5)}

    live(book, Random(5), 900, draw, lambda features: 0.6 if features["count"] == 3 else 0.1)
    assert conditions(book) == [{"2.5<features.count<=3.5"}]


def test_fields_of_the_op_count_like_features() -> None:
    """A role or a state separates as well; a feature of the same name keeps its own."""
    dice, book = Random(6), RuleBook()
    for _ in range(600):
        state, role = dice.choice(["NV", "CA"]), dice.choice(["welder", "fitter"])
        fine = dice.random() >= (0.6 if state == "NV" else 0.1)
        book.consume(an_outcome(fine, {"state": dice.choice("xy")}, state=state, role=role))
    learn(book)
    assert conditions(book) in ([{"state=NV"}], [{"state=CA"}])


def test_a_rule_that_no_longer_holds_goes_and_the_reverse_takes_its_place() -> None:
    """After 300 ops of a world turned round the old rule is gone; after 600 the new one is there."""
    dice, book = Random(7), RuleBook()
    live(book, dice, 1000, letters, lambda features: 0.55 if features["f1"] == "a" else 0.1)
    assert conditions(book) == [{"f1=a"}]
    live(book, dice, 300, letters, lambda features: 0.1 if features["f1"] == "a" else 0.55)
    assert all(rule.rate > rule.other_rate for rule in book.rules(ENDPOINT) if rule.conditions[0].text() == "f1=a")
    live(book, dice, 300, letters, lambda features: 0.1 if features["f1"] == "a" else 0.55)
    (rule,) = book.rules(ENDPOINT)
    assert (rule.conditions[0].text(), rule.rate > rule.other_rate) == ("f1=a", True)
    assert book.dropped == 1


def test_a_rule_fades_where_nothing_makes_a_difference_any_more() -> None:
    """Six hundred ops without a rule take it away; none comes instead."""
    dice, book = Random(8), RuleBook()
    live(book, dice, 800, letters, lambda features: 0.55 if features["f1"] == "a" else 0.1)
    assert conditions(book) == [{"f1=a"}]
    live(book, dice, 600, letters, lambda _: 0.1)
    assert conditions(book) == []


def test_a_rule_that_holds_stays_over_full_sheets() -> None:
    """Ten thousand ops, three sheets: the rule is reported all along, and counted on."""
    dice, book = Random(9), RuleBook()
    live(book, dice, 600, letters, lambda features: 0.55 if features["f1"] == "a" else 0.1)
    for _ in range(10):
        live(book, dice, 1000, letters, lambda features: 0.55 if features["f1"] == "a" else 0.1)
        assert conditions(book) == [{"f1=a"}]
    assert book.rules(ENDPOINT)[0].n > 3000
    assert book.skipped < 20 * 6  # of the cycle in which a sheet was full


def test_advised_ops_corrections_and_amendments_are_left_out() -> None:
    """Advice must not confirm itself; who knows better says so with *shown*."""
    book = RuleBook()
    for op in (
        an_op(exposure_id="x-1"),
        an_op(source="overseer_correction"),
        an_op(amends="op-1"),
    ):
        book.consume(op)
    book.consume(an_op(), shown=True)
    assert (book.ops, book.left_out) == (0, 4)
    book.consume(an_op(exposure_id="x-1"), shown=False)
    assert (book.ops, book.left_out) == (1, 4)


def test_an_op_that_amends_changes_the_outcome_of_the_one_it_amends() -> None:
    """Scores that come late: what they say makes the rule, over a chain of amendments and a restart too."""
    dice, book = Random(10), RuleBook()
    for number in range(500):
        features, op_id = letters(dice), f"op-{number}"
        book.consume(an_outcome(True, features, op_id=op_id))
        if number == 250:
            saved = book.take_dirty()
            book = RuleBook()
            book.load(saved)
        fails = dice.random() < (0.6 if features["f3"] == "a" else 0.15)
        book.consume(an_outcome(not fails, features, op_id=f"{op_id}-first", amends=op_id))
        book.consume(an_outcome(fails, features, op_id=f"{op_id}-second", amends=f"{op_id}-first"))
        book.consume(an_outcome(not fails, features, op_id=f"{op_id}-third", amends=f"{op_id}-second unknown"))
    learn(book)
    (rule,) = book.rules(ENDPOINT)
    assert conditions(book) == [{"f3=a"}]
    assert rule.rate < 0.6 < 0.75 < rule.other_rate
    assert book.left_out == 0
    book.consume(an_outcome(True, {}, amends="op-7"))
    assert (book.report().ops, book.left_out) == (500, 1)


@pytest.mark.parametrize("first", [ENDPOINT, "execute_tool fill"])
def test_an_op_that_amends_completes_what_the_first_report_did_not_know(first: str) -> None:
    """An HTTP client knows no inputs; of a tool's call it turns out that it was this one. Numbers and texts."""
    dice, book = Random(11), RuleBook()
    for number in range(400):
        inputs: dict[str, Scalar] = {**letters(dice), "weight": round(dice.uniform(1, 60), 1)}
        op = an_outcome(float(inputs["weight"]) <= 31, inputs, op_id=f"tool-{number}", amends=f"http-{number}")
        known = {} if first == ENDPOINT else inputs
        book.consume(an_op(endpoint=first, success=True, features=known, op_id=f"http-{number}"))
        book.consume(op)
        if not number % 50:
            learn(book)
    learn(book)
    (condition,) = book.rules(ENDPOINT)[0].conditions
    assert (condition.field, condition.low is None) == ("weight", False)
    assert 29 < (condition.low or 0) < 33
    assert (book.ops, book.left_out) == (400 if first == ENDPOINT else 800, 0)
    assert {rule.endpoint for rule in book.report().rules} == {ENDPOINT, first}


def test_an_op_that_amends_several_is_counted_once_and_changes_them_all() -> None:
    """A tool's call, the request in it, a score of both; the name of an endpoint may be longer than is kept of it."""
    book, long = RuleBook(), "/" + "x" * 300
    book.consume(an_op(endpoint="execute_tool find", success=True, op_id="tool"))
    book.consume(an_op(endpoint=long, success=True, op_id="http", amends="tool"))
    book.consume(an_op(endpoint=long, success=False, op_id="score", amends="http"))
    assert (book.ops, book.left_out) == (2, 0)
    saved = {key: json.loads(body)["row"]["sheet"] for key, body in book.take_dirty().items() if "rules/" in key}
    assert {sheet["ops"] for sheet in saved.values()} == {1}
    assert not any(any(b64decode(sheet["succeeded"])) for sheet in saved.values())


def test_a_full_sheet_takes_no_more_until_it_was_looked_at() -> None:
    """However many ops come between two cycles, memory and work are those of 4096."""
    book, op = RuleBook(), an_outcome(True, {"a": "b"})
    for _ in range(5000):
        book.consume(op)
    assert (book.ops, book.skipped) == (4096, 904)
    learn(book)
    book.consume(op)
    assert (book.ops, book.skipped) == (1, 904)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 699))
def test_a_restored_book_goes_on_as_if_nothing_had_been(seed: int, cut: int) -> None:
    """Saved and loaded anywhere, the same ops and looks lead to the same rows and the same rules."""
    dice = Random(seed)
    draws = [letters(dice, 4) | {"n": dice.random()} for _ in range(700)]
    ops = [an_outcome(dice.random() >= (0.6 if each["f1"] == "a" else 0.1), each) for each in draws]
    whole, parts, saved = RuleBook(), RuleBook(), dict[str, bytes]()
    for number, op in enumerate(ops):
        for book in (whole, parts):
            book.consume(op)
            if not number % 25:
                learn(book)
        if number == cut:
            saved = parts.take_dirty()
            parts.put_back(list(saved))
            for _ in parts.prepare():
                pass
            assert parts.take_dirty() == saved
            parts = RuleBook()
            parts.load(saved)
    assert parts.rules(ENDPOINT) == whole.rules(ENDPOINT)
    assert parts.unusable == 0
    final = whole.take_dirty()
    assert {key: final[key] for key in parts.take_dirty()} | saved == final | saved


SCALARS = st.one_of(
    st.text(max_size=80),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.just(10**400),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.dictionaries(st.text(max_size=8), SCALARS, max_size=6)), max_size=80))
def test_any_features_are_taken(draws: list[tuple[bool, dict[str, Scalar]]]) -> None:
    """Whatever names and values are sent, every op is counted, looked at and saved."""
    book = RuleBook()
    for _ in range(3):
        for success, features in draws:
            book.consume(an_outcome(success, features))
        learn(book)
    again = RuleBook()
    again.load(book.take_dirty())
    assert (book.not_counted, again.unusable, book.ops) == (0, 0, 3 * len(draws))


def test_fields_and_values_without_end_stay_within_bounds() -> None:
    """New names and values in every op make no more than so many columns."""
    book = RuleBook()
    for number in range(4096):
        book.consume(an_outcome(True, {f"k{number}-{each}": f"v{number}" for each in range(60)}, city=f"c{number}"))
    for number in range(4096):
        features: Features = {f"k{each}": f"v{number}" for each in range(64)}
        book.consume(an_op(endpoint="/other", features=features))
    for row in rows_of(book):
        assert len(row.fields) <= MAX_FIELDS
        assert row.columns <= MAX_COLUMNS
    learn(book)
    assert book.not_counted == 0


def test_endpoints_without_end_stay_within_bounds() -> None:
    """The least recent goes; what is left of twelve hundred endpoints needs less than 8 MiB."""
    book = RuleBook()
    ops = [an_op(endpoint=f"/e{number}", features={"a": "x", "b": number % 7}) for number in range(1200)]
    tracemalloc.start()
    for op in ops * 5:
        book.consume(op)
    learn(book)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert book.report().endpoints == MAX_ENDPOINTS
    assert book.evicted > 0
    assert used < 8 << 20


def test_a_poison_op_costs_itself() -> None:
    """What cannot be counted is counted as such."""
    book = RuleBook()
    book.consume(an_op(features=7))
    book.consume(an_op())
    assert (book.not_counted, book.report().endpoints) == (1, 1)


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded tool calls are not beside the repository")
def test_recorded_calls_bear_no_rule_at_the_tools_that_never_fail() -> None:
    """572 calls: rules, if any, are of the three tools that failed."""
    book = RuleBook()
    for op in recorded():
        book.consume(op)
    learn(book)
    failing = {"book_reservation", "update_reservation_flights", "update_reservation_baggages"}
    assert {rule.endpoint for rule in book.report().rules} <= failing


def recorded() -> list[ObservedOp]:
    calls = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    ops = []
    for call in calls:
        features = {
            key: value if isinstance(value, str | int | float) else len(value)
            for key, value in call["arguments"].items()
        }
        ops.append(an_op(endpoint=call["tool"], success=call["success"], features=features))
    return ops


def rows_of(book: RuleBook) -> list[Sheet]:
    return [row.sheet for row in book._rows.rows()]
