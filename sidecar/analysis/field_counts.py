"""Bounded counts of the values in ops' fields, and which values set failures apart from successes."""

from __future__ import annotations

from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from sidecar.call_fields import FIELDS, feature_name, word
from sidecar.model import ObservedOp, Scalar
from sidecar.normalize import clean_text

COUNTED: Final = tuple(field for field in FIELDS if field not in ("task_class", "count"))
MAX_FIELDS: Final = 32
MAX_VALUES: Final = 16  # per field
MAX_PAIRS: Final = 128  # over all fields
MAX_LENGTH: Final = 60  # characters of a field's name, and of a value

_MIN_FAILURES, _MIN_SUCCESSES = 3, 5  # with fewer ops, shared values mean little
_COMMON, _RARE = 0.9, 0.1
_MAX_COMMON = 5
_field_values = attrgetter(*COUNTED)


class FieldCounts(msgspec.Struct, omit_defaults=True):
    """For each field, how many of *seen* ops had each value.

    Once a bound is reached, further values are counted together per field in *beyond*. A kept value was counted from
    its first op on, so its count is exact; after `absorb` it is a lower bound.
    """

    seen: int = 0
    values: dict[str, dict[str, int]] = {}
    beyond: dict[str, int] = {}
    pairs: int = 0

    def add(self, op: ObservedOp) -> None:
        """Count *op*. O(its fields); runs for every op, so known values take the shortest path."""
        self.seen += 1
        values, beyond = self.values, self.beyond
        for field, text in zip(COUNTED, _field_values(op), strict=True):
            if text:
                known = values.get(field)
                if known is None:
                    self._count(field, text)
                elif text in known:
                    known[text] += 1
                elif field in beyond and len(text) <= MAX_LENGTH and text.isascii():  # full; not a kept value
                    beyond[field] += 1
                else:
                    self._count(field, text)
        if op.features:
            self._add_features(op.features)

    def _add_features(self, features: dict[str, Scalar]) -> None:
        values = self.values
        for name, value in features.items():
            field = feature_name(name)
            known = values.get(field)
            text = value if isinstance(value, str) else word(value)
            if known is not None and text in known:
                known[text] += 1
            else:
                self._count(field, text)

    def absorb(self, other: FieldCounts) -> None:
        """Add all counts of *other*; values that find no room are counted in *beyond*."""
        self.seen += other.seen
        for field, values in other.values.items():
            for text, count in values.items():
                self._count(field, text, count)
        for field, count in other.beyond.items():
            self.beyond[field] = self.beyond.get(field, 0) + count

    def remove(self, op: ObservedOp) -> None:
        """Subtract *op*, which was added before. Its values keep their slots, so that all counts stay exact."""
        self.seen -= 1
        for field, text in zip(COUNTED, _field_values(op), strict=True):
            if text:
                self._uncount(field, text)
        for name, value in (op.features or {}).items():
            field = feature_name(name)
            self._uncount(field, value if isinstance(value, str) else word(value))

    def at_most(self, field: str, value: str) -> int:
        """The number of ops with *value* in *field*; if the value is not kept, an upper bound."""
        known = self.values.get(field)
        if known is None:
            return 0 if len(self.values) < MAX_FIELDS else self.seen
        return known[value] if value in known else self.beyond.get(field, 0)

    def _count(self, field: str, text: str, count: int = 1) -> None:
        field, text = _shared(clean_text(field[:MAX_LENGTH])), _shared(clean_text(text[:MAX_LENGTH]))
        known = self.values.get(field)
        if known is None:
            if len(self.values) >= MAX_FIELDS:
                return
            known = self.values[field] = {}
        if text in known:
            known[text] += count
        elif len(known) < MAX_VALUES and self.pairs < MAX_PAIRS:
            known[text] = count
            self.pairs += 1
        else:
            self.beyond[field] = self.beyond.get(field, 0) + count

    def _uncount(self, field: str, text: str) -> None:
        field, text = clean_text(field[:MAX_LENGTH]), clean_text(text[:MAX_LENGTH])
        counts = self.values.get(field, {})
        if text not in counts:
            counts, text = self.beyond, field
        if counts.get(text, 0) > 0:
            counts[text] -= 1


@lru_cache(maxsize=8192)
def _shared(text: str) -> str:
    """*text* as one shared object: the counts of two thousand rows hold largely the same names and values."""
    return text


class Common(NamedTuple):
    """A value that nearly all failures had and hardly any success had."""

    field: str
    value: str
    failures: int
    successes: int


def common_to_failures(failures: FieldCounts, successes: FieldCounts) -> list[Common]:
    """The values that at least 90 % of *failures* and at most 10 % of *successes* had, the clearest first, at most 5.

    Empty for fewer than 3 failures or 5 successes. If a bound hid a value's count, its upper bound is compared.
    """
    if failures.seen < _MIN_FAILURES or successes.seen < _MIN_SUCCESSES:
        return []
    found = []
    for field, values in failures.values.items():
        for value, count in values.items():
            elsewhere = successes.at_most(field, value)
            if count >= _COMMON * failures.seen and elsewhere <= _RARE * successes.seen:
                found.append(Common(field, value, count, elsewhere))
    found.sort(key=lambda common: (-common.failures, common.successes, common.field))
    return found[:_MAX_COMMON]
