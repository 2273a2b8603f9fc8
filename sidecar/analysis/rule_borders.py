"""Estimates where a rule's numeric cut lies, from the numbers beside its cut point, once the rule leads.

Pure. A sheet bins numbers by cut points chosen before any outcome is known, so a rule's cut may be off by up to one
bin. Once a rule with a cut leads or stands, a `Border` reports the cut at the observed number that best separates the
outcomes, among the stored numbers in the bins on either side. The hypothesis tested is the cut point; the reported
place is an estimate, and moves only if another place fits clearly better. What is reported is counted there, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from math import inf
from typing import Final, NamedTuple

import msgspec

from sidecar.analysis.e_values import Table, likelihood_gain
from sidecar.analysis.rule_counts import Condition, Together, set_bit
from sidecar.analysis.rule_search import Snapshot, table
from sidecar.packed import numbers

MAX_BORDERS: Final = 8  # per endpoint
_LEAST_POINTS = 8  # numbers beside the cut
_BETTER = 3.0  # ln of the likelihood ratio over the reported place that a move needs: two odd outcomes or more
_MOST_MOVES = 8  # per border and sheet


class Moved(msgspec.Struct, frozen=True):
    """Conditions with a cut of *field* at *cut* are reported with the cut at *told*."""

    field: str
    cut: float
    told: float


class Border(msgspec.Struct, omit_defaults=True):
    """The *cut* of *field*, reported at *told*, a number above *low* and at most *high*, the adjacent cut points.

    The reported place is *certain* if it fits much better than either end.
    """

    field: str
    cut: float
    told: float
    low: float | None = None
    high: float | None = None
    moves: int = 0
    certain: bool = False


class _Edge(NamedTuple):
    """A cut within a conjunction, and the conjunction's other conditions."""

    field: str
    cut: float
    rest: Together


def told(conditions: Iterable[Condition], moved: Sequence[Moved]) -> Together:
    """*conditions* with their cuts at the reported places."""
    return tuple(_as_reported(each, moved) for each in conditions)


def moved(borders: Iterable[Border], together: Together) -> tuple[Moved, ...]:
    """The cuts of *together* that are reported elsewhere than at their cut points."""
    cuts = {(edge.field, edge.cut) for edge in _edges(together)}
    return tuple(
        Moved(each.field, each.cut, each.told)
        for each in borders
        if (each.field, each.cut) in cuts and each.told != each.cut
    )


def borders_of(known: Sequence[Border], world: Snapshot, wanted: Iterable[Together], most: int) -> list[Border]:
    """A border for each cut of the *wanted* conjunctions, at most *most* in their order; *known* borders are reused."""
    before = {(each.field, each.cut): each for each in known}
    found: dict[tuple[str, float], Border] = {}
    for edge in (edge for together in wanted for edge in _edges(together)):
        key = (edge.field, edge.cut)
        if key in found or len(found) >= most:
            continue
        if key not in before:
            low, high = _beside(world, *key)
            before[key] = Border(*key, told=edge.cut, low=low, high=high)
        found[key] = before[key]
    return list(found.values())


def borders_kept(borders: Iterable[Border], standing: Iterable[Together]) -> list[Border]:
    """The borders of rules that a new sheet takes over; the reported places stay."""
    cuts = {(edge.field, edge.cut) for together in standing for edge in _edges(together)}
    kept = [each for each in borders if (each.field, each.cut) in cuts]
    for each in kept:
        each.moves = 0
    return kept


def place(borders: Iterable[Border], world: Snapshot, standing: Iterable[Together]) -> Iterator[None]:
    """Move each border to where the outcomes of its first conjunction in *standing* fit best; two steps per border."""
    edges: dict[tuple[str, float], _Edge] = {}
    for edge in (edge for together in standing for edge in _edges(together)):
        edges.setdefault((edge.field, edge.cut), edge)
    for border in borders:
        if (key := (border.field, border.cut)) in edges:
            rest = world.of(edges[key].rest) or 0
            points = _points(border, world, rest)
            yield
            if len(points) >= _LEAST_POINTS:
                _place(border, dict(_gains(border, world, rest, points)))
                yield


def counted_as_told(world: Snapshot, together: Together, moved: Sequence[Moved]) -> Table:
    """The table of *together* with its cuts where they are reported; `table` if none is reported elsewhere.

    An op whose number lies between a cut and its reported place, but was not stored, is counted on neither side.
    """
    met = known = world.every
    for each in together:
        reported = _as_reported(each, moved)
        if reported == each:
            met &= world.bits.get(each, 0)
            continue
        for cut, place, is_low in ((each.low, reported.low, True), (each.high, reported.high, False)):
            if cut is not None and place is not None:
                above, sure = _above(world, each.field, cut, place)
                present = world.bits.get(Condition(each.field, "number", low=cut), 0)
                present |= world.bits.get(Condition(each.field, "number", high=cut), 0)
                met, known = met & (above if is_low else present & ~above), known & sure
    return table(world, met, known)


def _above(world: Snapshot, field: str, cut: float, place: float) -> tuple[int, int]:
    """The ops with numbers above *place*, which lies in a bin beside *cut*; and those of which that is known."""
    above = world.bits.get(Condition(field, "number", low=cut), 0)
    if place == cut:
        return above, world.every
    low, high = _beside(world, field, cut)
    low, high = (cut, high) if place > cut else (low, cut)
    stored = _points_between(world, field, low, high)
    beside = _between(world, field, low, high)
    higher = _bits_of(at for at, number in stored if number > place)
    known = _bits_of(at for at, _ in stored)
    return world.every & (above & ~beside | higher), world.every & ~(beside & ~known)


def _bits_of(ops: Iterable[int]) -> int:
    bits = bytearray()
    for at in ops:
        set_bit(bits, at)
    return int.from_bytes(bits, "little")


def _points_between(world: Snapshot, field: str, low: float | None, high: float | None) -> list[tuple[int, float]]:
    """(index of the op, number) of the stored numbers above *low* and at most *high*."""
    least, most = -inf if low is None else low, inf if high is None else high
    return [(at, number) for at, number in numbers(world.numbers.get(field, b"")) if least < number <= most]


def same_border(borders: Sequence[Border], one: Together, other: Together) -> bool:
    """Whether the two differ only in cuts at adjacent cut points, where the places reported for *one* are certain."""
    if one == other or len(one) != len(other):
        return False
    return all(mine == theirs or _is_neighbour(borders, mine, theirs) for mine, theirs in zip(one, other, strict=True))


def beside_cuts(world: Snapshot, borders: Sequence[Border], together: Together) -> Iterator[int]:
    """For each cut of *together*, the ops whose numbers may lie on the other side of the true cut.

    These are in the bins on either side or, if the reported place is certain, in the one bin that contains it; a
    certain place at the cut point itself leaves none.
    """
    known = {(each.field, each.cut): each for each in borders if each.certain}
    for edge in _edges(together):
        low, high = _beside(world, edge.field, edge.cut)
        border = known.get((edge.field, edge.cut))
        if border is not None:
            if border.told == edge.cut:
                continue
            low, high = (edge.cut, high) if border.told > edge.cut else (low, edge.cut)
        yield _between(world, edge.field, low, high)


def _place(border: Border, gains: dict[float, float]) -> None:
    ends = max(gains[next(iter(gains))], gains[next(reversed(gains))])
    now = max((each for each in gains if each <= border.told), default=next(iter(gains)))
    best = max(gains, key=lambda each: gains[each])
    if gains[best] >= max(gains[now], ends) + _BETTER and border.moves < _MOST_MOVES:
        border.told, border.moves, now = best, border.moves + 1, best
    border.certain = gains[now] >= ends + _BETTER


def _gains(
    border: Border, world: Snapshot, rest: int, points: Sequence[tuple[float, bool]]
) -> Iterator[tuple[float, float]]:
    """For each place where the cut may be reported, lowest first: how well separate rates below and above it fit."""
    below = table(world, _between(world, border.field, None, border.low) if border.low is not None else 0, rest)
    above = table(world, _between(world, border.field, border.high, None) if border.high is not None else 0, rest)
    n, good = below.n, below.successes
    others = above.n + len(points)
    other_good = above.successes + sum(success for _, success in points)
    if border.low is not None:
        yield border.low, likelihood_gain(n, good, others, other_good)
    for number, alike in groupby(points, key=lambda point: point[0]):
        outcomes = [success for _, success in alike]
        n, good = n + len(outcomes), good + sum(outcomes)
        others, other_good = others - len(outcomes), other_good - sum(outcomes)
        yield number, likelihood_gain(n, good, others, other_good)


def _points(border: Border, world: Snapshot, rest: int) -> list[tuple[float, bool]]:
    """(number, success) of the ops beside the border and within *rest* whose numbers are stored, ordered by number."""
    beside = _points_between(world, border.field, border.low, border.high)
    return sorted((number, bool(world.succeeded >> at & 1)) for at, number in beside if rest >> at & 1)


def _edges(together: Together) -> Iterator[_Edge]:
    for each in together:
        if each.kind != "number":
            continue
        others = tuple(one for one in together if one is not each)
        low, high = each.low, each.high
        if low is not None:
            half = () if high is None else (Condition(each.field, "number", high=high),)
            yield _Edge(each.field, low, (*others, *half))
        if high is not None:
            half = () if low is None else (Condition(each.field, "number", low=low),)
            yield _Edge(each.field, high, (*others, *half))


def _cuts(world: Snapshot, field: str) -> list[float]:
    return sorted(
        each.high for each in world.bits if each.field == field and each.low is None and each.high is not None
    )


def _beside(world: Snapshot, field: str, cut: float) -> tuple[float | None, float | None]:
    """The neighbouring cut points of *cut*; None where there is none."""
    cuts = _cuts(world, field)
    lower, higher = [each for each in cuts if each < cut], [each for each in cuts if each > cut]
    return lower[-1] if lower else None, higher[0] if higher else None


def _between(world: Snapshot, field: str, low: float | None, high: float | None) -> int:
    """The ops with numbers above the cut point *low* and at most the cut point *high*."""
    found = world.every
    if low is not None:
        found &= world.bits.get(Condition(field, "number", low=low), 0)
    if high is not None:
        found &= world.bits.get(Condition(field, "number", high=high), 0)
    return found


def _is_neighbour(borders: Sequence[Border], mine: Condition, theirs: Condition) -> bool:
    """Whether *theirs* has one cut at a cut point next to that of *mine*, whose reported place is certain."""
    if mine.field != theirs.field or mine.kind != "number" or theirs.kind != "number":
        return False
    if (mine.low is None) != (theirs.low is None) or (mine.high is None) != (theirs.high is None):
        return False
    cuts = [(ours, other) for ours, other in ((mine.low, theirs.low), (mine.high, theirs.high)) if ours != other]
    known = {(each.field, each.cut): each for each in borders}
    for ours, other in cuts:
        border = known.get((mine.field, ours)) if ours is not None else None
        if border is None or not border.certain or other not in (border.low, border.high):
            return False
    return True


def _as_reported(condition: Condition, moved: Sequence[Moved]) -> Condition:
    if condition.kind != "number" or not moved:
        return condition
    places = {each.cut: each.told for each in moved if each.field == condition.field}
    low = places.get(condition.low, condition.low) if condition.low is not None else None
    high = places.get(condition.high, condition.high) if condition.high is not None else None
    if low is not None and high is not None and low >= high:
        return condition
    return Condition(condition.field, "number", low=low, high=high)
