"""Each conjunction's share of alpha, fixed before any outcome is known.

Pure. Shares must not depend on outcomes, nor change later: they depend on the fields and values of the sheet's first
ops. All fields have equal shares, however many values they have, and so have the values of a field; values that come
later share a reserve. A conjunction's share is the product of its conditions' shares, within a part for each size.
Conjunctions named before the sheet began (its *suspects*) share an additional part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log
from typing import Final

from sidecar.analysis.e_values import BLOCK, log_sum
from sidecar.analysis.rule_counts import Condition, Together

MAX_CONDITIONS: Final = 2048
_SIZES = (0.45, 0.30, 0.25)  # alpha for conjunctions of one, two and three conditions
_ORDERS = (1, 2, 6)  # orders in which so many conditions can be named
_LATER = 0.1  # reserve for conditions that the first block did not have
_INTERVALS = 0.2  # of a numeric field's share, for intervals; the rest is for one-sided cuts
_NUMBERS = 4  # the numbers of a field count as so many values
_SUSPECTS = 0.3


class Prior:
    """The shares of one sheet. *bits* maps its conditions, as far as known now, to their ops."""

    def __init__(self, bits: Mapping[Condition, int], suspects: Sequence[Together]) -> None:
        self._logs = _condition_shares(bits)
        self._later = log(_LATER / MAX_CONDITIONS)
        searched = 1 - _SUSPECTS if suspects else 1.0
        self._sizes = [log(searched * share * orders) for share, orders in zip(_SIZES, _ORDERS, strict=True)]
        self._suspects = {each: log(_SUSPECTS / len(suspects)) for each in suspects}

    def of(self, condition: Condition) -> float:
        """Ln of the share of *condition*; a conjunction's is the sum of these and of its size's."""
        return self._logs.get(condition, self._later)

    def of_size(self, size: int) -> float:
        """Ln of the share of all conjunctions of *size* conditions, times the orders in which each can be named."""
        return self._sizes[size - 1]

    def of_all(self, together: Together) -> float:
        """Ln of the share of the conjunction *together*."""
        share = self._sizes[len(together) - 1] + sum(map(self.of, together))
        suspected = self._suspects.get(together)
        return share if suspected is None else log_sum((share, suspected))


def _condition_shares(bits: Mapping[Condition, int]) -> dict[Condition, float]:
    """Ln of the share of each condition known in the first block; the shares sum to at most one."""
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
