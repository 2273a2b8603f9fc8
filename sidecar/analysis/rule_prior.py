"""What share of the error allowed each conjunction has, before anything is known of successes and failures.

Pure. Shares must not depend on outcomes, nor change later: they are made of which fields and values the first ops of
a sheet had. Fields share alike, whatever number of values they have, and so do the values of a field; what comes
later shares a reserve. A conjunction's share is the product of its conditions', in a part for each size. Conjunctions
that were named before the sheet began (its *suspects*) share a part by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Final

from sidecar.analysis.e_values import BLOCK, log_sum
from sidecar.analysis.rule_counts import Condition, Together

MAX_CONDITIONS: Final = 2048
_SIZES = (0.45, 0.30, 0.25)  # of conjunctions of one, two and three conditions
_ORDERS = (1, 2, 6)  # in which a conjunction of so many can be named
_LATER = 0.1  # of what there is for conditions, for those that the first block did not have
_INTERVALS = 0.2  # of a number's share, for intervals; the rest is for what lies above or below a cut
_NUMBERS = 4  # values that the numbers of a field count as
_SUSPECTS = 0.3


class Prior:
    """The shares of one sheet. *bits* are those of its conditions, as far as they are known now."""

    def __init__(self, bits: Mapping[Condition, int], suspects: Sequence[Together]) -> None:
        self._logs = _condition_shares(bits)
        self._later = log(_LATER / MAX_CONDITIONS)
        searched = 1 - _SUSPECTS if suspects else 1.0
        self._sizes = [log(searched * share * orders) for share, orders in zip(_SIZES, _ORDERS, strict=True)]
        self._suspects = {each: log(_SUSPECTS / len(suspects)) for each in suspects}

    def of(self, condition: Condition) -> float:
        """Ln of the share of *condition* among all; a conjunction's is the sum of these and its size's."""
        return self._logs.get(condition, self._later)

    def of_size(self, size: int) -> float:
        """Ln of what all conjunctions of *size* conditions share, with the orders that each can be named in."""
        return self._sizes[size - 1]

    def of_all(self, together: Together) -> float:
        """Ln of the share of a conjunction."""
        share = self._sizes[len(together) - 1] + sum(map(self.of, together))
        suspected = self._suspects.get(together)
        return share if suspected is None else log_sum((share, suspected))


def _condition_shares(bits: Mapping[Condition, int]) -> dict[Condition, float]:
    """Ln of the share of each condition that the first block knew of; the sum of all shares is at most one."""
    first = (1 << BLOCK) - 1
    by_field: dict[str, list[Condition]] = {}
    for condition in bits:
        by_field.setdefault(condition.field, []).append(condition)
    fields = []
    for conditions in by_field.values():
        numbers = [each for each in conditions if each.kind == "number"]
        values = [each for each in conditions if each.kind != "number" and bits[each] & first]
        others = first
        for each in values:
            others &= ~bits[each]
        if others or len(values) > 1:
            fields.append((values, numbers if others else [], bool(others)))
    shares: dict[Condition, float] = {}
    for values, numbers, has_others in fields:
        part = (1 - _LATER) / len(fields) / (len(values) + _NUMBERS * has_others)
        shares |= dict.fromkeys(values, log(part))
        shares |= _number_shares(numbers, _NUMBERS * part)
    return shares


def _number_shares(numbers: Iterable[Condition], share: float) -> dict[Condition, float]:
    intervals = [each for each in numbers if each.low is not None and each.high is not None]
    cuts = [each for each in numbers if each.low is None or each.high is None]
    found = dict.fromkeys(cuts, log((1 - _INTERVALS) * share / max(len(cuts), 1)))
    return found | dict.fromkeys(intervals, log(_INTERVALS * share / max(len(intervals), 1)))
