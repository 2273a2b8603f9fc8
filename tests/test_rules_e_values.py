"""Evidence is what it claims to be: on average no more than one where there is no difference."""

from __future__ import annotations

from itertools import combinations, product
from math import comb, exp, log
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.analysis.e_values import (
    ALPHA,
    BLOCK,
    MAX_OPS,
    ODDS,
    Table,
    bet,
    complete,
    difference_interval,
    likelihood_gain,
    log_expected,
    log_restart_share,
    log_share,
    log_sum,
    mixed,
    rate_interval,
)
from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_evidence import Evidence
from sidecar.analysis.rule_prior import Prior
from sidecar.analysis.rule_search import Snapshot

RATES = st.floats(0.01, 0.99)


@given(st.integers(1, BLOCK), st.data())
def test_a_bet_on_a_block_expects_no_gain_where_all_is_chance(n: int, data: st.DataObject) -> None:
    """Whatever the odds: over all ways to put a block's successes among its ops the factor is one on average."""
    met, successes = data.draw(st.integers(0, n)), data.draw(st.integers(0, n))
    expected = log_expected(n, met, successes)
    factors = {
        good: [exp(odds * good - each) for odds, each in zip(ODDS, expected, strict=True)]
        for good in range(max(0, met + successes - n), min(met, successes) + 1)
    }
    chances = {good: comb(successes, good) * comb(n - successes, met - good) / comb(n, met) for good in factors}
    for at in range(len(ODDS)):
        assert sum(chances[good] * factors[good][at] for good in factors) == pytest.approx(1)
    assert mixed([0.0] * len(ODDS)) == pytest.approx(0)


@pytest.mark.parametrize("known", [False, True])
def test_evidence_passes_twenty_in_one_world_of_twenty_at_most(known: bool) -> None:
    """At whatever op one looks, though the rate drifts with the share of ops that meet the condition."""
    dice, passed = Random(int(known)), 0
    for _ in range(200):
        bits = other = good = 0
        for at in range(640):
            morning = 0.3 + 0.4 * (at // 100 % 2)
            bits |= (dice.random() < morning) << at
            other |= (dice.random() < 0.5) << at
            good |= (dice.random() < morning) << at
        looks = [
            Evidence(Snapshot(ops, good, {}, {}), [other & ((1 << ops) - 1)] if known else []).log_e(
                bits & ((1 << ops) - 1)
            )
            for ops in range(64, 641, 64)
        ]
        passed += max(looks) >= log(20)
    assert passed <= 10


def test_a_difference_is_evident_and_none_is_not() -> None:
    """Ten blocks of 90 % against 40 % leave no doubt; equal ones take away, and so do sides that are empty."""
    assert evidence([(16, 14, 6)] * 10) > 20
    assert evidence([(16, 12, 12)] * 10) < -1
    assert evidence([(16, 14, 6)]) < evidence([(16, 14, 6)] * 2)
    assert evidence([(0, 0, 3), (BLOCK, 9, 0)]) == pytest.approx(0)


def test_what_begins_late_has_not_all_the_time_before_against_it() -> None:
    """Two thousand ops without a difference, then six hundred with one."""
    late = [(16, 12, 12)] * 64 + [(16, 14, 7)] * 20
    assert evidence(late) > 10


def evidence(blocks: list[tuple[int, int, int]]) -> float:
    """That of blocks of (ops that meet a condition, successes among these, among the others)."""
    bits = good = 0
    for number, (met, successes, others) in enumerate(blocks):
        bits |= ((1 << met) - 1) << number * BLOCK
        good |= ((1 << successes) - 1 | ((1 << others) - 1) << met) << number * BLOCK
    return Evidence(Snapshot(len(blocks) * BLOCK, good, {}, {}), []).log_e(bits)


def a_world(dice: Random, fields: int = 5) -> dict[Condition, int]:
    """Bits of 256 ops: texts, a number with cut points, and a value that comes late."""
    bits = {Condition(f"f{at}", "is", "a"): dice.getrandbits(256) for at in range(fields)}
    bits |= {Condition(each.field, "is", "b"): (1 << 256) - 1 & ~found for each, found in bits.items()}
    cuts = [10.0, 20.0, 30.0]
    bits |= {Condition("n", "number", high=cut): dice.getrandbits(256) for cut in cuts}
    bits |= {Condition("n", "number", low=cut): dice.getrandbits(256) for cut in cuts}
    bits |= {Condition("n", "number", low=10.0, high=20.0): dice.getrandbits(256), Condition("n", "missing"): 0}
    return bits | {Condition("f0", "is", "late"): 1 << 200, Condition("late", "is", "x"): 1 << 201}


def test_shares_of_the_error_sum_to_one_at_most() -> None:
    """Over endpoints, over restarts, and over all conjunctions of a sheet, suspects among them."""
    assert sum(exp(log_share(number)) for number in range(100_000)) <= 1
    assert sum(exp(log_restart_share(number)) for number in range(100_000)) <= 1
    bits = a_world(Random(1))
    every = [each for size in (1, 2, 3) for each in combinations(bits, size)]
    for suspects in ([], [every[0]], [every[3], every[100]]):
        prior = Prior(bits, suspects)
        total = sum(exp(prior.of_all(each)) for each in every)
        assert 0.5 < total <= 1
    assert prior.of_all(every[100]) > Prior(bits, []).of_all(every[100]) + 2


def test_shares_do_not_change_as_ops_come() -> None:
    """They are made of the first block; what comes later was provided for."""
    bits = a_world(Random(2))
    first = {each: found & ((1 << BLOCK) - 1) for each, found in bits.items()}
    early, late = Prior(first, []), Prior(bits, [])
    assert [early.of(each) for each in bits] == [late.of(each) for each in bits]
    assert late.of(Condition("f0", "is", "late")) < late.of(Condition("f0", "is", "a")) - 4


@given(st.integers(0, 6), st.integers(0, 6), RATES, RATES, RATES)
def test_a_bet_on_two_rates_expects_no_gain_where_they_are_equal(
    n: int, others: int, rate: float, other_rate: float, common: float
) -> None:
    """Summed over all outcomes of a block of any shape, whatever is bet on, whatever the common rate."""
    expected = 0.0
    for successes, other_successes in product(range(n + 1), range(others + 1)):
        good = successes + other_successes
        chance = comb(n, successes) * comb(others, other_successes) * common**good * (1 - common) ** (n + others - good)
        expected += chance * exp(bet(Table(n, successes, others, other_successes), rate, other_rate))
    assert expected <= 1 + 1e-9


def test_blocks_count_once_they_are_complete() -> None:
    """Evidence is of whole blocks, and a sheet is made of these."""
    assert [complete(ops) for ops in (0, BLOCK - 1, BLOCK, 2 * BLOCK + 1, MAX_OPS)] == [0, 0, BLOCK, 2 * BLOCK, MAX_OPS]
    assert log_sum([log(0.25), log(0.5)]) == pytest.approx(log(0.75))


@given(st.integers(0, 60), st.integers(0, 60), st.data())
def test_two_rates_fit_at_least_as_well_as_one(n: int, others: int, data: st.DataObject) -> None:
    """The likelihood gain is never negative, and nothing where one side is empty."""
    successes, other_successes = data.draw(st.integers(0, n)), data.draw(st.integers(0, others))
    gain = likelihood_gain(n, successes, others, other_successes)
    assert gain >= -1e-9
    if not n or not others:
        assert gain == pytest.approx(0)


@given(st.integers(0, 80), st.data())
def test_an_interval_holds_the_rate_and_narrows(n: int, data: st.DataObject) -> None:
    """It contains what was seen, lies within 0 and 1, and with ten times the ops it is narrower."""
    successes = data.draw(st.integers(0, n))
    low, high = rate_interval(successes, n)
    assert 0 <= low <= (successes / n if n else 0.5) <= high <= 1
    if n:
        wide_low, wide_high = rate_interval(10 * successes, 10 * n)
        assert wide_high - wide_low < high - low


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95))
def test_an_interval_misses_seldom_however_often_one_looks(rate: float) -> None:
    """The chance to leave the interval at any of forty looks, computed exactly, is within its bound."""
    alive, missed = {0: 1.0}, 0.0
    for n in range(1, 41):
        after: dict[int, float] = {}
        for successes, chance in alive.items():
            after[successes] = after.get(successes, 0.0) + chance * (1 - rate)
            after[successes + 1] = after.get(successes + 1, 0.0) + chance * rate
        alive = {}
        for successes, chance in after.items():
            low, high = rate_interval(successes, n)
            if low <= rate <= high:
                alive[successes] = chance
            else:
                missed += chance
    assert missed <= ALPHA


def test_the_interval_of_a_difference_holds_the_difference() -> None:
    """Clear differences exclude zero, small samples do not."""
    low, high = difference_interval(Table(120, 116, 45, 5))
    assert 0.5 < low < 116 / 120 - 5 / 45 < high <= 1
    low, high = difference_interval(Table(3, 3, 3, 1))
    assert low < 0 < high
