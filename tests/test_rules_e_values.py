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
    RANKS,
    ROUNDS,
    Table,
    bet,
    complete,
    difference_interval,
    likelihood_gain,
    log_restart_share,
    log_round_share,
    log_share,
    log_stake,
    log_sum,
    rate_interval,
    settle,
    stake,
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


@settings(max_examples=20, deadline=None)
@given(RATES, RATES, RATES)
def test_what_is_staked_expects_no_gain_though_the_rate_drifts(before: float, first: float, second: float) -> None:
    """Two blocks after the one by whose outcome it was staked, each with another common rate."""
    expected = 0.0
    for outcome in product(range(3), repeat=6):
        a, b, c, d, e, f = outcome
        chance = 1.0
        for good, rate in ((a, before), (b, before), (c, first), (d, first), (e, second), (f, second)):
            chance *= comb(2, good) * rate**good * (1 - rate) ** (2 - good)
        expected += chance * exp(holding([Table(2, a, 2, b), Table(2, c, 2, d), Table(2, e, 2, f)]))
    assert expected <= 1 + 1e-9


def test_a_difference_is_evident_and_none_is_not() -> None:
    """Twenty blocks of 90 % against 40 % leave no doubt; equal ones take away what a look of a difference staked."""
    assert holding([Table(10, 9, 10, 4)] * 21) > 40
    assert holding([Table(10, 9, 10, 4), *[Table(10, 8, 10, 8)] * 20]) < -0.5
    assert holding([Table(10, 9, 10, 4)]) == pytest.approx(0)
    assert holding([Table(10, 9, 10, 4), Table(0, 0, 16, 3)]) == pytest.approx(0)


def holding(blocks: list[Table]) -> float:
    """What one staked after the first block holds at the end."""
    logs, seen = stake([], 0.0), blocks[0]
    for block in blocks[1:]:
        settle(logs, seen, block)
        seen = Table(*(a + b for a, b in zip(seen, block, strict=True)))
    return log_sum(logs)


def test_a_further_stake_is_added_to_what_is_held() -> None:
    """Half of what there was, and half again."""
    assert log_sum(stake(stake([], log(0.5)), log(0.25))) == pytest.approx(log(0.75))


@given(st.integers(0, 60), st.integers(0, 60), st.data())
def test_two_rates_fit_at_least_as_well_as_one(n: int, others: int, data: st.DataObject) -> None:
    """The likelihood gain is never negative, and nothing where one side is empty."""
    successes, other_successes = data.draw(st.integers(0, n)), data.draw(st.integers(0, others))
    gain = likelihood_gain(n, successes, others, other_successes)
    assert gain >= -1e-9
    if not n or not others:
        assert gain == pytest.approx(0)


def test_shares_of_the_error_sum_to_one_at_most() -> None:
    """Over endpoints, over restarts, and over all bets of a sheet."""
    assert sum(exp(log_share(number)) for number in range(100_000)) <= 1
    assert sum(exp(log_restart_share(number)) for number in range(100_000)) <= 1
    assert sum(exp(log_stake(rank)) for rank in range(RANKS)) <= exp(log_round_share()) + 1e-9
    assert (len(ROUNDS) + 1) * exp(log_round_share()) <= 1 + 1e-9


def test_rounds_lie_at_the_end_of_blocks() -> None:
    """Bets are on whole blocks; blocks that are complete."""
    assert set(ROUNDS) <= set(BLOCK_ENDS)
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
