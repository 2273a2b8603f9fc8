"""Bitmaps of which ops had which value in which field, from which conjunctions of conditions are counted.

A `Sheet` holds up to 4096 ops of one endpoint; each value of each field is a column with one bit per op. Numbers are
binned by cut points, chosen from the first numbers regardless of outcomes. Fed by the rule book, read by the rule
search.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import isfinite
from operator import attrgetter
from typing import Final, Literal, NamedTuple
from zlib import crc32

import msgspec
from msgspec.structs import replace

from sidecar.analysis.e_values import MAX_OPS
from sidecar.call_fields import FIELD_SET, FIELDS, feature_name, word
from sidecar.model import ObservedOp, Scalar
from sidecar.normalize import clean_text
from sidecar.packed import NUMBER_BYTES, SPAN_BYTES, add_number, add_span, numbers

_field_values = attrgetter(*FIELDS)
MAX_FIELDS: Final = 73  # 64 features and `FIELDS`
MAX_VALUES: Final = 24  # per field
MAX_COLUMNS: Final = 512  # per endpoint
MAX_LENGTH: Final = 60  # characters of a field's name, and of a value
_TO_LEARN = 64  # numbers collected before cut points are chosen
_FEW = 10  # up to so many different numbers get a bin each
_ROOM = 16  # bytes by which a column grows
_REFS_BYTES = 32 * SPAN_BYTES  # spans kept
_IDS = 1024  # ids of the last ops kept, so that later ops can amend them
_PARTS = 10  # otherwise: number of bins, with about equal numbers of ops


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A field equals *value*, or is missing, or is a number above *low* and at most *high* (either may be open)."""

    field: str
    kind: Literal["is", "missing", "number"]
    value: str = ""
    low: float | None = None
    high: float | None = None

    def text(self) -> str:
        """`state=NV`, `state missing`, `amount<=37.5`, `amount>37.5`, `10<amount<=37.5`."""
        if self.kind == "is":
            return f"{self.field}={self.value}"
        if self.kind == "missing":
            return f"{self.field} missing"
        low = "" if self.low is None else f"{self.low:g}<"
        if self.high is None:
            return f"{self.field}>{self.low:g}"
        return f"{low}{self.field}<={self.high:g}"

    def opposite(self) -> str | None:
        """Of a number that is open on one side the other side, as `text`: `amount<=37.5`. Else None."""
        if self.kind != "number" or (self.low is None) == (self.high is None):
            return None
        return replace(self, low=self.high, high=self.low).text()


Together = tuple[Condition, ...]


class Room(NamedTuple):
    """The room of a sheet: *columns*, *numbers* stored as they are, and whether those beside borders are besides."""

    columns: int
    numbers: int
    beside_borders: bool


class Column(msgspec.Struct, omit_defaults=True):
    """One field: ops by text value, ops with values beyond the bounds, and numbers.

    Numbers are stored as they are (*early*, `sidecar.packed`), so that ops can be counted at any place of a cut: the
    first ones, as there is room, and all of a field that *has_border*. Once the *cuts* are chosen from them, numbers
    are also binned into *parts*, one more than there are cuts, each a bitmap of ops.
    """

    values: dict[str, bytearray] = {}
    beyond: bytearray = msgspec.field(default_factory=bytearray)
    early: bytearray = msgspec.field(default_factory=bytearray)
    cuts: list[float] = []
    parts: list[bytearray] = []
    has_border: bool = False

    def has(self, at: int) -> bool:
        """Whether a value of the op at index *at* was counted."""
        byte, bit = at >> 3, 1 << (at & 7)
        counted = (self.beyond, *self.values.values(), *self.parts)
        return any(bits[byte] & bit for bits in counted if byte < len(bits)) or any(
            known == at for known, _ in numbers(self.early)
        )

    def learn(self) -> None:
        """Choose the cut points and bin the first numbers; if all numbers are equal, there are no cut points."""
        self.cuts = _cut_points([number for _, number in numbers(self.early)])
        if not self.cuts:
            return
        self.parts = [bytearray() for _ in range(len(self.cuts) + 1)]
        for at, number in numbers(self.early):
            set_bit(self.parts[bisect_left(self.cuts, number)], at)


class Sheet(msgspec.Struct, omit_defaults=True):
    """Up to 4096 ops of one endpoint in order of arrival. Bit *i* of a column belongs to the *i*-th op."""

    ops: int = 0
    succeeded: bytearray = msgspec.field(default_factory=bytearray)
    fields: dict[str, Column] = {}
    columns: int = 0
    numbers: int = 0  # stored as they are, in all columns
    tasks: bytearray = msgspec.field(default_factory=bytearray)  # four bytes per op: a checksum of its task's name
    ids: bytearray = msgspec.field(default_factory=bytearray)  # of the last ops: checksums of their ids
    refs: bytearray = msgspec.field(default_factory=bytearray)  # spans of the last ops, see `sidecar.packed`

    @property
    def is_full(self) -> bool:
        """Whether the sheet has no room for more ops."""
        return self.ops >= MAX_OPS

    def add(self, op: ObservedOp, room: Room) -> None:
        """Count *op*. O(its fields); runs for every op, so known values take the shortest path."""
        at, byte, bit = self.ops, self.ops >> 3, 1 << (self.ops & 7)
        if op.success:
            set_bit(self.succeeded, at)
        self.ops = at + 1
        self._remember(op, at)
        fields = self.fields
        for name, value in zip(FIELDS, _field_values(op), strict=True):
            if value is not None and value != "":
                try:
                    fields[name].values[value][byte] |= bit
                except (KeyError, IndexError):
                    self._count(name, value, at, room)
        if op.features:
            self._add_features(op.features, at, room)

    def amend(self, op: ObservedOp, amended: Iterable[bytes], room: Room) -> bool:
        """Give the recent ops that *op* amends its outcome, its id, and what it says of fields they had not.

        *amended* are the `checksums` of their ids. Returns whether there were any.
        """
        found = [at for wanted in amended if (at := self._place_of(wanted)) is not None]
        first = self.ops - len(self.ids) // 4
        for at in found:
            self.ids[4 * at : 4 * at + 4] = _checksum(op.op_id or "")
            set_bit(self.succeeded, first + at)
            if not op.success:
                self.succeeded[(first + at) >> 3] ^= 1 << ((first + at) & 7)
            self._complete(op, first + at, room)
        return bool(found)

    def _complete(self, op: ObservedOp, at: int, room: Room) -> None:
        told: dict[str, Scalar] = {
            name: value for name, value in zip(FIELDS, _field_values(op), strict=True) if value is not None
        }
        told.update((feature_name(name), value) for name, value in (op.features or {}).items())
        for name, value in told.items():
            column = self.fields.get(clean_text(name[:MAX_LENGTH]))
            if value != "" and (column is None or not column.has(at)):
                self._count(name, value, at, room)

    def _place_of(self, wanted: bytes) -> int | None:
        at = len(self.ids)
        while (at := self.ids.rfind(wanted, 0, at + 3)) > 0 and at % 4:
            pass
        return at // 4 if at >= 0 else None

    def _remember(self, op: ObservedOp, at: int) -> None:
        """Store checksums of task and id, and the span. Without a task the trace counts as one, else the op itself."""
        task, trace_id, span_id = op.task, op.trace_id, op.span_id
        name = task or trace_id or str(at)
        self.tasks += _checksum(name)
        self.ids += _checksum(op.op_id or "")
        if len(self.ids) > 8 * _IDS:
            del self.ids[: -4 * _IDS]
        if trace_id is not None and span_id is not None:
            add_span(self.refs, at, trace_id, span_id)
            if len(self.refs) > 2 * _REFS_BYTES:
                del self.refs[:-_REFS_BYTES]

    def _add_features(self, features: dict[str, Scalar], at: int, room: Room) -> None:
        fields, byte, bit = self.fields, at >> 3, 1 << (at & 7)
        for name, value in features.items():
            try:
                column = fields[name if name not in FIELD_SET else feature_name(name)]
                if value.__class__ is str:
                    known = column.values.get(value)
                    if known is None:  # often new, as for ids, so without an exception
                        self._count(feature_name(name), value, at, room)
                    else:
                        known[byte] |= bit
                elif value is True or value is False:
                    column.values["true" if value else "false"][byte] |= bit
                else:
                    column.parts[bisect_left(column.cuts, value)][byte] |= bit
                    self._store(column, value, at, room)
            except (KeyError, IndexError):  # a new value, or its column is too short
                self._count(feature_name(name), value, at, room)

    def _count(self, name: str, value: Scalar, at: int, room: Room) -> None:
        name = clean_text(name[:MAX_LENGTH])
        column = self.fields.get(name)
        if column is None:
            if len(self.fields) >= MAX_FIELDS or self.columns >= room.columns:
                return
            column = self.fields[name] = Column()
        number = _number(value)
        if number is not None:
            self._count_number(column, number, at, room)
            return
        text = clean_text(word(value)[:MAX_LENGTH])
        known = column.values.get(text)
        if known is None and len(column.values) < MAX_VALUES and self.columns < room.columns:
            known = column.values[text] = bytearray()
            self.columns += 1
        set_bit(column.beyond if known is None else known, at)

    def _count_number(self, column: Column, number: float, at: int, room: Room) -> None:
        if column.cuts:
            set_bit(column.parts[bisect_left(column.cuts, number)], at)
            self._store(column, number, at, room)
        elif (early := len(column.early) // NUMBER_BYTES) >= _TO_LEARN:  # all equal so far, or no room for cut points
            set_bit(column.beyond, at)
        else:
            add_number(column.early, at, number)
            self.numbers += 1
            if early + 1 == _TO_LEARN and self.columns + _PARTS <= room.columns:
                column.learn()
                self.columns += len(column.parts)

    def _store(self, column: Column, value: Scalar, at: int, room: Room) -> None:
        """Store the binned number *value* as it is, if there is room."""
        has_room = room.beside_borders if column.has_border else self.numbers < room.numbers
        if has_room and (number := _number(value)) is not None:
            add_number(column.early, at, number)
            self.numbers += 1

    def begin(self, conditions: Iterable[Condition]) -> Sheet:
        """An empty sheet with the values and cut points that counting *conditions* requires."""
        fresh = Sheet()
        for condition in conditions:
            column = fresh.fields.setdefault(condition.field, Column())
            if condition.kind == "is":
                column.values[condition.value] = bytearray()
                fresh.columns += 1
            old = self.fields.get(condition.field)
            if condition.kind == "number" and old is not None and not column.cuts:
                column.cuts, column.parts = old.cuts, [bytearray() for _ in old.parts]
                fresh.columns += len(column.parts)
        return fresh


def conditions_of(field: str, column: Column, mask: int) -> Iterator[tuple[Condition, int]]:
    """Each condition on *field*, with the bits of the ops within *mask* that meet it."""
    present = int.from_bytes(column.beyond, "little")
    for value, bits in column.values.items():
        found = int.from_bytes(bits, "little") & mask
        present |= found
        yield Condition(field, "is", value), found
    for at, _ in numbers(column.early):
        present |= 1 << at
    parts = [int.from_bytes(bits, "little") & mask for bits in column.parts]
    for part in parts:
        present |= part
    yield from _number_conditions(field, column.cuts, parts)
    yield Condition(field, "missing"), mask & ~present


def _number_conditions(field: str, cuts: Sequence[float], parts: Sequence[int]) -> Iterator[tuple[Condition, int]]:
    below, every = 0, 0
    for part in parts:
        every |= part
    for at, cut in enumerate(cuts):
        below |= parts[at]
        yield Condition(field, "number", high=cut), below
        yield Condition(field, "number", low=cut), every & ~below
        if at:
            yield Condition(field, "number", low=cuts[at - 1], high=cut), parts[at]


def checksums(names: Iterable[str]) -> list[bytes]:
    """As which a sheet keeps ids."""
    return [_checksum(name) for name in names]


def _checksum(name: str) -> bytes:
    return crc32(name.encode("utf-8", "surrogatepass")).to_bytes(4, "little")


def set_bit(bits: bytearray, at: int) -> None:
    """Set bit *at* of *bits*, which grows as needed."""
    byte = at >> 3
    if byte >= len(bits):
        bits.extend(bytes(byte + _ROOM - len(bits)))
    bits[byte] |= 1 << (at & 7)


def _number(value: Scalar) -> float | None:
    if isinstance(value, bool | str):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def _cut_points(numbers: list[float]) -> list[float]:
    ordered = sorted(numbers)
    different = sorted(set(ordered))
    if len(different) <= _FEW:
        return [(low + high) / 2 for low, high in pairwise(different)]
    at = [ordered[len(ordered) * part // _PARTS] for part in range(1, _PARTS)]
    return sorted({each for each in at if each < different[-1]})
