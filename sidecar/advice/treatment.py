"""What an entry tells agents to do, and when another version still tells the same: an entry's trial goes on then.

Pure. The randomisation of each task does not depend on later versions, so a trial that goes on measures the mean effect
of what was told. It goes on only where that is one piece of advice: a rule's own numeric limit, estimated anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from sidecar.model_learning import Range, Term

Terms = Mapping[str, Term]


class Treatment(NamedTuple):
    """The calls that an entry is about, what to set, and whether a rule made it."""

    when: Terms
    set: Terms
    is_of_rule: bool = False


def is_same(one: Treatment, other: Treatment) -> bool:
    """Whether two versions of one entry tell the same, apart from where a rule's cut is reported.

    The id of a rule's entry is made of the cut points of its conditions, and a cut is reported within the parts beside
    its cut point (`analysis.rule_borders`): few calls are told otherwise. A bound of *set* has to move with it.
    """
    if (one.when, one.set) == (other.when, other.set):
        return True
    if not (one.is_of_rule and other.is_of_rule and _is_alike(one.when, other.when) and _is_alike(one.set, other.set)):
        return False
    moved = {(name, before): after for name, before, after in _bounds(one.when, other.when)}
    return all(
        after == moved.get((name, before), before)
        for name, before, after in _bounds(one.set, other.set)
        if name in one.when  # else it is the rule's own condition that is to be set
    )


def _is_alike(one: Terms, other: Terms) -> bool:
    """Whether both name the same fields, with equal values, or ranges that are open on the same sides."""
    return one.keys() == other.keys() and all(_shape(term) == _shape(other[name]) for name, term in one.items())


def _shape(term: Term) -> object:
    return (term.above is None, term.up_to is None) if isinstance(term, Range) else (type(term), term)


def _bounds(one: Terms, other: Terms) -> Iterator[tuple[str, float, float]]:
    """(field, bound, bound in *other*) of the ranges of two mappings that are alike."""
    for name, term in one.items():
        new = other[name]
        if isinstance(term, Range) and isinstance(new, Range):
            for before, after in ((term.above, new.above), (term.up_to, new.up_to)):
                if before is not None and after is not None:
                    yield name, before, after
