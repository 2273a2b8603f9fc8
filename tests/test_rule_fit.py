"""A rule of an endpoint is told of those failures that it tells apart, and of no others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from sidecar.analysis.field_counts import FieldCounts
from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_fit import said_of
from sidecar.analysis.rule_standing import Rule
from sidecar.model import Scalar
from tests.fakes import an_op

OLD = Condition("age_days", "number", low=33.0)
CERTIFIED = Condition("certified", "is", "true")
NO_CITY = Condition("city", "missing")


def a_rule(*conditions: Condition, fails: bool = True) -> Rule:
    """Half of the calls meet *conditions*; of those hardly any succeeds, or nearly all do."""
    met, others = (2, 90) if fails else (90, 2)
    return Rule(
        endpoint="/a",
        conditions=conditions,
        n=100,
        successes=met,
        others=100,
        other_successes=others,
        low=0.0,
        high=1.0,
        log_e=9.0,
        since="t",
        seen="t",
    )


def failures(*features: Mapping[str, Scalar]) -> FieldCounts:
    counts = FieldCounts()
    for each in features:
        counts.add(an_op(success=False, city=None, features=dict(each)))
    return counts


@pytest.mark.parametrize(
    ("rule", "seen", "fits"),
    [
        (a_rule(OLD), [{"age_days": 34 + number} for number in range(40)], True),
        (a_rule(OLD), [{"age_days": 20 + number} for number in range(28)], False),
        (a_rule(OLD), [{"age_days": 50}] * 2, False),
        (a_rule(OLD), [{"age_days": "old"}] * 9, False),
        (a_rule(OLD), [{}] * 9, False),
        (a_rule(OLD, fails=False), [{}] * 9, True),
        (a_rule(CERTIFIED, fails=False), [{"certified": False}] * 9, True),
        (a_rule(CERTIFIED, fails=False), [{"certified": True}] * 5 + [{"certified": False}] * 5, False),
        (a_rule(OLD, CERTIFIED), [{"age_days": 40, "certified": True}] * 9, True),
        (a_rule(OLD, CERTIFIED), [{"age_days": 40, "certified": False}] * 9, False),
        (a_rule(NO_CITY), [{}] * 9, True),
    ],
)
def test_a_rule_fits_failures_that_meet_it_far_more_often_than_calls_do(
    rule: Rule, seen: list[dict[str, Scalar]], fits: bool
) -> None:
    """Also where it says what succeeds, and then by those that do not meet it; too few failures say nothing."""
    said = said_of(failures(*seen), [rule])
    assert said is not None
    assert said.fits is fits


def test_the_best_proven_rule_that_fits_is_told() -> None:
    """Else the best proven one, as one that does not; without rules there is nothing to say."""
    first, second = a_rule(CERTIFIED, fails=False), a_rule(OLD)
    counts = failures(*[{"age_days": 60, "certified": True}] * 9)
    said = said_of(counts, [first, second])
    assert said is not None
    assert (said.rule, said.where, said.way_out) == (second, "with age_days>33", "with age_days<=33")
    assert said.rates == "2 % of 100 calls succeed, 90 % of 100 others"
    other = said_of(counts, [first])
    assert other is not None
    assert (other.fits, other.where, other.way_out) == (False, "without certified=true", "with certified=true")
    assert said_of(counts, []) is None
