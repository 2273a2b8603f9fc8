"""Uplift: what the arms show, whenever one looks, and what becomes of an entry by it."""

from __future__ import annotations

from math import sqrt
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.advice.standing import SLUMP, STANDING_ALPHA, State, standing
from sidecar.advice.tallies import Tally, Trial
from sidecar.advice.uplift import Arm, Stratum, Uplift, excludes, failures_avoided, uplift


@st.composite
def arms(draw: st.DrawFn) -> Arm:
    tasks = draw(st.integers(0, 3000))
    return Arm(tasks, draw(st.integers(0, tasks)))


STRATA = st.lists(st.builds(Stratum, st.floats(0.01, 0.99), arms(), arms()), max_size=4)


@given(STRATA, st.sampled_from([0.01, 0.05, 0.1]))
def test_the_estimate_lies_in_its_interval_and_all_tasks_are_counted(strata: list[Stratum], alpha: float) -> None:
    """Whatever the counts; without two arms to compare nothing is said."""
    found = uplift(strata, alpha)
    assert found.shown.tasks == sum(each.shown.tasks for each in strata)
    assert found.withheld.successes == sum(each.withheld.successes for each in strata)
    if found.estimate is None or found.low is None or found.high is None:
        assert not any(each.shown.tasks and each.withheld.tasks for each in strata)
    else:
        assert -1 <= found.low <= found.estimate <= found.high <= 1


CONTRADICTING = [Stratum(0.5, Arm(37, 37), Arm(4, 0)), Stratum(0.9, Arm(362, 0), Arm(2, 0))]


@given(STRATA, st.floats(-1, 1))
@example(CONTRADICTING, 0.0)
def test_the_interval_is_what_the_test_does_not_exclude(strata: list[Stratum], difference: float) -> None:
    """Searching for its ends gives the same as asking for each difference."""
    found = uplift(strata)
    if found.low is None or found.high is None:
        assert not excludes(strata, difference)
    elif min(abs(difference - found.low), abs(difference - found.high)) > 1e-5:
        assert excludes(strata, difference) == (not found.low <= difference <= found.high)


@given(arms(), arms())
def test_arms_that_change_places_change_the_sign(one: Arm, other: Arm) -> None:
    """Shown and withheld are treated alike; so are success and failure."""
    found, turned = uplift([Stratum(0.5, one, other)]), uplift([Stratum(0.5, other, one)])
    failed = uplift([Stratum(0.5, *(Arm(arm.tasks, arm.tasks - arm.successes) for arm in (one, other)))])
    if found.estimate is not None:
        for other_way in (turned, failed):
            assert other_way.estimate == pytest.approx(-found.estimate, abs=1e-5)
            assert other_way.low == pytest.approx(-(found.high or 0.0), abs=1e-5)
            assert other_way.high == pytest.approx(-(found.low or 0.0), abs=1e-5)


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.9, 0.7), (0.97, 0.95), (0.3, 0.1)])
def test_the_interval_is_at_most_1_8_times_a_fixed_samples(rates: tuple[float, float]) -> None:
    """Against Newcombe's (method 10) at 1,000 tasks an arm."""
    shown, withheld = (Arm(1000, round(1000 * rate)) for rate in rates)
    found = uplift([Stratum(0.5, shown, withheld)])
    assert found.low is not None
    assert found.high is not None
    low, high = newcombe(shown, withheld)
    assert found.low < low < high < found.high
    assert found.high - found.low <= 1.8 * (high - low)


def test_a_propensity_that_changes_together_with_the_base_rate_biases_nothing() -> None:
    """Nine in ten shown while all goes well, one in two before: pooled, an entry without effect would shine."""
    before, after = Stratum(0.5, Arm(500, 250), Arm(500, 250)), Stratum(0.9, Arm(900, 810), Arm(100, 90))
    found = uplift([before, after])
    assert (found.shown.successes / 1400) - (found.withheld.successes / 600) > 0.15
    assert found.estimate == pytest.approx(0.0)


def test_a_stratum_without_one_arm_says_nothing() -> None:
    """Its tasks are counted, and weigh nothing."""
    alone = [Stratum(0.5, Arm(50, 40), Arm(50, 20))]
    more = [*alone, Stratum(0.9, Arm(30, 0), Arm())]
    assert uplift(more).estimate == uplift(alone).estimate == pytest.approx(0.4)
    assert uplift(more).shown.tasks == 80


@pytest.mark.parametrize("rates", [(0.5, 0.5), (0.95, 0.75), (0.03, 0.03)])
def test_the_interval_covers_however_often_one_looks(rates: tuple[float, float]) -> None:
    """After every one of 1,500 tasks, 40 times: at most 6 runs miss (were it 5 %, more would come once in 70)."""
    missed = 0
    for seed in range(40):
        dice, strata = Random(seed), [Stratum(0.5), Stratum(0.9)]
        for number in range(1500):
            stratum = strata[number > 700]
            shown = dice.random() < stratum.propensity
            arm = stratum.shown if shown else stratum.withheld
            arm.tasks += 1
            arm.successes += dice.random() < rates[not shown]
            if excludes(strata, rates[0] - rates[1]):
                missed += 1
                break
    assert missed <= 6


@pytest.mark.parametrize(
    ("state", "shown", "withheld", "then"),
    [
        ("candidate", (100, 90), (100, 60), "active"),
        ("candidate", (100, 60), (100, 90), "retired"),
        ("active", (900, 600), (100, 90), "retired"),
        ("candidate", (100, 70), (100, 70), "candidate"),
        ("active", (100, 70), (100, 70), "active"),
        ("retired", (100, 90), (100, 60), "retired"),
        ("candidate", (60, 0), (4, 4), "candidate"),
        ("candidate", (50, 0), (0, 0), "candidate"),
    ],
)
def test_standing_follows_the_interval(
    state: State, shown: tuple[int, int], withheld: tuple[int, int], then: State
) -> None:
    """Up when it lies above zero, out when below; few tasks decide nothing, and retired is for good."""
    assert standing(state, uplift([Stratum(0.5, Arm(*shown), Arm(*withheld))], STANDING_ALPHA)) == then


def test_a_harmful_entry_is_given_up_within_400_exposures_and_a_helpful_one_is_not() -> None:
    """Of 20 that cost 20 points at least 15 go, of 20 that gain 20 at most 2; all figures: `make bench-learning`."""
    assert [life(Random(seed), 0.7, -0.2) for seed in range(20)].count("retired") >= 15
    assert [life(Random(seed), 0.7, 0.2) for seed in range(20)].count("retired") <= 2


def test_shown_tasks_that_do_no_better_any_more_add_up_to_a_slump() -> None:
    """Thirty failures in a row do; a few among many successes do not; a new trial begins without."""
    trial = Trial()
    for number in range(200):
        trial.count(0.9, shown=True, success=bool(number % 10), reported=False)
        trial.count(0.9, shown=False, success=bool(number % 2), reported=False)
    assert trial.slump < SLUMP / 2
    for _ in range(30):
        trial.count(0.9, shown=True, success=False, reported=False)
    assert trial.slump > SLUMP
    tally = Tally("pb-1", now=trial)
    tally.begin_anew()
    assert (tally.now, tally.past.strata) == (Trial(), trial.strata)


def test_failures_avoided_add_up_over_parts_that_share_no_task() -> None:
    """The sum is surer than its parts put end to end; what nobody was withheld from is compared to nothing."""
    strata = [Stratum(0.5, Arm(100, 80), Arm(50, 15)), Stratum(0.9, Arm(1000, 0), Arm())]
    one = failures_avoided([(strata, Uplift(0.5, 0.3, 0.6, Arm(), Arm()))])
    assert one is not None
    assert (one.value, one.low, one.high) == pytest.approx((50.0, 30.0, 60.0))
    both = failures_avoided([(strata, Uplift(0.5, 0.3, 0.6, Arm(), Arm()))] * 2 + [([], uplift([]))])
    assert both is not None
    assert (both.value, both.low, both.high) == pytest.approx((100.0, 100 - 20 * 2**0.5, 100 + 10 * 2**0.5))
    assert failures_avoided([([], uplift([]))]) is None


def test_what_agents_report_makes_no_slump() -> None:
    """Their word alone does not put an entry on trial."""
    trial = Trial()
    for number in range(100):
        trial.count(0.9, shown=True, success=True, reported=False)
        trial.count(0.9, shown=False, success=bool(number % 2), reported=False)
        trial.count(0.9, shown=True, success=False, reported=True)
    assert trial.slump == 0.0


def life(dice: Random, base: float, effect: float) -> State:
    state: State = "candidate"
    strata = {0.5: Stratum(0.5), 0.9: Stratum(0.9)}
    for number in range(400):
        stratum = strata[0.5 if state == "candidate" else 0.9]
        shown = dice.random() < stratum.propensity
        arm = stratum.shown if shown else stratum.withheld
        arm.tasks += 1
        arm.successes += dice.random() < base + effect * shown
        if not number % 8:
            state = standing(state, measured(list(strata.values())))
    return state


def measured(strata: list[Stratum]) -> Uplift:
    return uplift(strata, STANDING_ALPHA)


def newcombe(one: Arm, other: Arm, z: float = 1.959964) -> tuple[float, float]:
    """Newcombe's hybrid score interval of a difference (1998, method 10)."""

    def wilson(arm: Arm) -> tuple[float, float, float]:
        n, rate = arm.tasks, arm.successes / arm.tasks
        middle, half = rate + z * z / (2 * n), z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        return rate, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    (a, a_low, a_high), (b, b_low, b_high) = wilson(one), wilson(other)
    return a - b - sqrt((a - a_low) ** 2 + (b_high - b) ** 2), a - b + sqrt((a_high - a) ** 2 + (b - b_low) ** 2)
