"""Evidence is what it claims to be: on average no more than one where there is no difference."""

from __future__ import annotations

from itertools import product
from math import comb, exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.analysis.e_values import (
    ALPHA,
    BLOCK_ENDS,
    LEVELS,
    Table,
    bet,
    complete,
    difference_interval,
    level_of,
    likelihood_gain,
    log_evidence,
    log_restart_share,
    log_share,
    log_weight,
    rate_interval,
    stands,
)

RATES = st.floats(0.01, 0.99)


@given(st.integers(0, 6), st.integers(0, 6), RATES, RATES, RATES)
def test_a_bet_on_a_block_expects_no_gain_where_the_rates_are_equal(
    n: int, others: int, rate: float, other_rate: float, common: float
) -> None:
    """Summed over all outcomes of a block of any shape, whatever is bet on, whatever the common rate."""
    expected = 0.0
    for successes, other_successes in product(range(n + 1), range(others + 1)):
        good = successes + other_successes
        chance = comb(n, successes) * comb(others, other_successes) * common**good * (1 - common) ** (n + others - good)
        expected += chance * exp(bet(Table(n, successes, others, other_successes), rate, other_rate))
    assert expected <= 1 + 1e-9


@given(RATES, RATES)
def test_evidence_of_two_blocks_expects_no_gain_though_the_rate_drifts(first: float, second: float) -> None:
    """The second block is bet on by what the first one showed, and has another common rate."""
    expected = 0.0
    for outcome in product(range(3), range(3), range(3), range(3)):
        a, b, c, d = outcome
        chance = 1.0
        for good, rate in ((a, first), (b, first), (c, second), (d, second)):
            chance *= comb(2, good) * rate**good * (1 - rate) ** (2 - good)
        expected += chance * exp(log_evidence([Table(2, a, 2, b), Table(2, c, 2, d)]))
    assert expected <= 1 + 1e-9


def test_a_difference_is_evident_and_none_is_not() -> None:
    """Twenty blocks of 90 % against 40 % leave no doubt; equal ones speak against a difference."""
    assert log_evidence([Table(10, 9, 10, 4)] * 20) > 40
    assert log_evidence([Table(10, 8, 10, 8)] * 20) < -1
    assert log_evidence([]) == pytest.approx(0)
    assert log_evidence([Table(0, 0, 16, 3)]) == pytest.approx(0)


@given(st.integers(0, 60), st.integers(0, 60), st.data())
def test_two_rates_fit_at_least_as_well_as_one(n: int, others: int, data: st.DataObject) -> None:
    """The likelihood gain is never negative, and nothing where one side is empty."""
    successes, other_successes = data.draw(st.integers(0, n)), data.draw(st.integers(0, others))
    gain = likelihood_gain(n, successes, others, other_successes)
    assert gain >= -1e-9
    if not n or not others:
        assert gain == pytest.approx(0)


def test_shares_of_the_error_sum_to_one_at_most() -> None:
    """Over endpoints, over restarts, and over all conjunctions of all levels."""
    assert sum(exp(log_share(number)) for number in range(100_000)) <= 1
    assert sum(exp(log_restart_share(number)) for number in range(100_000)) <= 1
    weights = [
        comb(most, size) * exp(log_weight(size, level)) for level, most in enumerate(LEVELS) for size in (1, 2, 3)
    ]
    assert sum(weights) <= 1 + 1e-9


def test_levels_hold_the_conditions_they_are_for() -> None:
    """The least level that is large enough; blocks that are complete."""
    assert [LEVELS[level_of(count)] for count in (0, 16, 17, 512, 5000)] == [16, 16, 32, 512, 2048]
    assert [complete(ops) for ops in (0, 15, 16, 33, 2047, 2048)] == [0, 0, 16, 32, 1984, 2048]
    assert BLOCK_ENDS[-1] == 2048


def test_the_first_rule_has_to_stand_against_everything() -> None:
    """Each further one needs a little less, as e-BH has it."""
    allowed = log(0.05)
    assert stands(3.0, 1, allowed)
    assert not stands(2.9, 1, allowed)
    assert stands(2.4, 2, allowed)


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
