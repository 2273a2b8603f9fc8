"""Details of a rule for its playbook entry: alternatives, which fields agents vary, and in how many tasks it was seen.

Pure. Computed from a sheet of ops.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Final, NamedTuple

from sidecar.analysis.rule_counts import Condition, Sheet, conditions_of
from sidecar.analysis.rule_search import Snapshot, snapshot, table
from sidecar.analysis.rule_standing import Rule
from sidecar.call_fields import FIELD_SET
from sidecar.model import SpanRef
from sidecar.packed import numbers, spans

SEEN_IN_TASKS: Final = 3
"""In so many tasks (or traces, where there is no task) a value must have been met to count as seen."""

_LEAST_CALLS = 8  # required for a value to be recommended
_ASKS_LESS = 0.1  # the margin by which an alternative must beat the other side of a cut, the nearest change
_LEAST_TASKS = 10  # tasks of several calls required to call a field given, if none of them changed it
_MOST_EVIDENCE = 12


class Finding(NamedTuple):
    """For one rule: an alternative (*instead*) per condition, the fields that agents *varied*, the conditions *seen*.

    *instead* has the best alternative to a condition with the rule's other conditions unchanged. *seen* are those
    conditions, of the alternatives and the rule, that occurred in enough tasks.
    """

    instead: dict[Condition, Condition]
    varied: frozenset[str]
    seen: frozenset[Condition]
    evidence: list[SpanRef]


def finding(sheet: Sheet, rule: Rule) -> Finding:
    """The finding for *rule*. O(ops × values of the fields in question)."""
    world = snapshot(sheet, sheet.ops)
    instead = {}
    for condition in rule.conditions:
        best = _instead(sheet, world, rule, condition)
        if best is not None:
            instead[condition] = best
    seen = {each for each in (*rule.conditions, *instead.values()) if _is_seen(sheet, world.bits.get(each, 0))}
    varied = frozenset(each.field for each in rule.conditions if _is_varied(sheet, each.field))
    return Finding(instead, varied, frozenset(seen), _evidence(sheet, world.of(rule.conditions) or 0))


def is_settable(field: str) -> bool:
    """Whether an agent may choose the value of *field*: features are a call's inputs, other fields describe the job."""
    return field not in FIELD_SET


def _instead(sheet: Sheet, world: Snapshot, rule: Rule, condition: Condition) -> Condition | None:
    """The alternative to *condition* with the best conservative rate, if that is better than the rule's."""
    column = sheet.fields.get(condition.field)
    bits = world.bits.get(condition)
    rest = world.of(each for each in rule.conditions if each is not condition)
    if column is None or bits is None or rest is None or not is_settable(condition.field):
        return None
    best, best_rate = None, 0.0
    for other, found in conditions_of(condition.field, column, (1 << world.ops) - 1):
        if found & bits:
            continue
        counted = table(world, found & rest)
        if counted.n < _LEAST_CALLS or not _is_seen(sheet, found):
            continue
        rate = _least_rate(counted.successes, counted.n)
        worth = rate + _ASKS_LESS * _is_other_side(condition, other)
        if rate > rule.rate and worth > best_rate:
            best, best_rate = other, worth
    return best


def _is_other_side(condition: Condition, other: Condition) -> bool:
    """Whether both have the same cut, so that *other* is what results from not meeting *condition*."""
    is_cut = condition.kind == "number" and (condition.low is None or condition.high is None)
    return is_cut and (other.low, other.high) == (condition.high, condition.low)


def _least_rate(successes: int, calls: int) -> float:
    """A conservative estimate of the rate: the smoothed rate minus one standard error."""
    rate = (successes + 1) / (calls + 2)
    return rate - sqrt(rate * (1 - rate) / (calls + 2))


def _is_seen(sheet: Sheet, bits: int) -> bool:
    tasks: set[bytes] = set()
    for at in _ones(bits):
        tasks.add(_task(sheet, at))
        if len(tasks) == SEEN_IN_TASKS:
            return True
    return False


def _is_varied(sheet: Sheet, field: str) -> bool:
    """Whether the field changed within a task, or too few tasks have several calls to tell."""
    column = sheet.fields.get(field)
    if column is None:
        return True
    values: dict[int, object] = dict(numbers(column.early))
    parts = [*column.values.items(), *enumerate(column.parts)]
    for value, bits in parts:
        values |= dict.fromkeys(_ones(int.from_bytes(bits, "little")), value)
    first: dict[bytes, object] = {}
    several: set[bytes] = set()
    for at, value in sorted(values.items()):
        task = _task(sheet, at)
        if task not in first:
            first[task] = value
        elif first[task] != value:
            return True
        else:
            several.add(task)
    return len(several) < _LEAST_TASKS


def _evidence(sheet: Sheet, bits: int) -> list[SpanRef]:
    return [ref for at, ref in spans(sheet.refs) if bits >> at & 1][-_MOST_EVIDENCE:]


def _task(sheet: Sheet, at: int) -> bytes:
    return bytes(sheet.tasks[4 * at : 4 * at + 4])


def _ones(bits: int) -> Iterator[int]:
    for at, digit in enumerate(reversed(f"{bits:b}")):
        if digit == "1":
            yield at
