"""Whether a rule of an endpoint explains the failures of one incident, where no single value does. Pure.

Rules cover all calls of an endpoint, incidents only one message. The field values of an incident's failures are counted
within bounds; the values that were kept stand for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

from sidecar.analysis.field_counts import MAX_FIELDS, FieldCounts
from sidecar.analysis.fingerprint import one_line
from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_standing import Rule

_LEAST = 3  # failures; with fewer, shared values mean little
_MAX_WORDS = 120  # characters of a rule's conditions


class RuleSaid(NamedTuple):
    """A *rule* of an incident's endpoint, and whether it *fits* the incident's failures, not only others there."""

    rule: Rule
    fits: bool

    @property
    def where(self) -> str:
        """The conditions under which calls fail: `with age_days>33`, `without certified=true`."""
        words = " and ".join(one_line(each.text(), 60) for each in self.rule.told)[:_MAX_WORDS]
        return f"with {words}" if self._fails_with else f"without {words}"

    @property
    def way_out(self) -> str:
        """The opposite of `where`: `with age_days<=33`, `without city=Boise`, `with certified=true`."""
        only = self.rule.told[0].opposite() if len(self.rule.told) == 1 and self._fails_with else None
        if only is not None:
            return f"with {one_line(only, 60)}"
        turned = "without" if self._fails_with else "with"
        return f"{turned} {self.where.split(' ', 1)[1]}"

    @property
    def rates(self) -> str:
        """`0 % of 464 calls succeed, 89 % of 511 others`; the failing side comes first."""
        rule = self.rule
        ours, others = (rule.rate, rule.n), (rule.other_rate, rule.others)
        (rate, calls), (other_rate, other_calls) = (ours, others) if self._fails_with else (others, ours)
        return f"{100 * rate:.0f} % of {calls} calls succeed, {100 * other_rate:.0f} % of {other_calls} others"

    @property
    def _fails_with(self) -> bool:
        return self.rule.rate < self.rule.other_rate


def said_of(failures: FieldCounts, rules: Sequence[Rule]) -> RuleSaid | None:
    """The first of *rules* (the best proven first) that fits *failures*, else the first; None if there are none."""
    for rule in rules:
        if _fits(failures, rule):
            return RuleSaid(rule, fits=True)
    return RuleSaid(rules[0], fits=False) if rules else None


def _fits(failures: FieldCounts, rule: Rule) -> bool:
    """Whether the failing side of the rule has a far larger share of *failures* than of all calls."""
    shares = [share for each in rule.told if (share := _share(failures, each)) is not None]
    calls = rule.n + rule.others
    if len(shares) < len(rule.conditions) or not calls or failures.seen < _LEAST:
        return False
    share, usual = min(shares), rule.n / calls
    if rule.rate > rule.other_rate:
        share, usual = 1 - share, 1 - usual
    return share > 0 and share >= (1 + usual) / 2  # at least half way from the usual share to 1


def _share(failures: FieldCounts, condition: Condition) -> float | None:
    """The share of *failures* that meet *condition*, among those whose values were kept; None if these are too few."""
    known = failures.values.get(condition.field)
    if known is None:
        if len(failures.values) >= MAX_FIELDS or failures.beyond.get(condition.field):
            return None
        known = {}
    missing = max(0, failures.seen - sum(known.values()) - failures.beyond.get(condition.field, 0))
    told = sum(known.values()) + missing
    met = sum(count for value, count in known.items() if _is_met(condition, value))
    met += missing if condition.kind == "missing" else 0
    return met / told if told >= _LEAST else None


def _is_met(condition: Condition, value: str) -> bool:
    if condition.kind != "number":
        return condition.kind == "is" and value == condition.value
    try:
        number = float(value)
    except ValueError:
        return False
    low, high = condition.low, condition.high
    return isfinite(number) and (low is None or number > low) and (high is None or number <= high)
