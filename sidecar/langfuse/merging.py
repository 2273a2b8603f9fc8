"""Merges what several messages told of one observation, or of one trace: each field is as it was told last.

So the result is the same in whatever order they come, unless two were told at the same time.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sidecar.model import Fragment

_FIELDS: Final = ("parent_span_id", "name", "start_ns", "end_ns")


class Merged(Fragment, frozen=True, kw_only=True, omit_defaults=True):
    """One or more fragments as one; *told_ns* is when the last of them was told.

    *earlier_ns* has the times, in ns since the epoch, of those fields and attributes that were told before that. Rows
    of earlier versions have none: there everything counts as told last.
    """

    earlier_ns: dict[str, int] = msgspec.field(default_factory=dict)


def merged(known: Merged | None, more: Fragment, *, by_field: bool = True) -> Merged:
    """*known* and *more* as one. Of two values told at the same time that of *more* counts.

    Without *by_field* all counts as told last after that, as in earlier versions.
    """
    said = _said(known) if known is not None else {}
    for name, each in _said(more).items():
        before = said.get(name)
        if before is None or each[1] >= before[1]:
            said[name] = each
    told_ns = max(known.told_ns, more.told_ns) if known is not None else more.told_ns
    return Merged(
        trace_id=more.trace_id,
        span_id=more.span_id,
        told_ns=told_ns,
        attributes={name: value for name, (value, _) in said.items() if name not in _FIELDS},
        earlier_ns={name: each_ns for name, (_, each_ns) in said.items() if each_ns < told_ns} if by_field else {},
        **{name: said[name][0] for name in _FIELDS if name in said},
    )


def says_the_same(one: Merged, other: Merged) -> bool:
    """Whether both say the same, whenever each part of it was told."""
    return msgspec.structs.replace(one, told_ns=other.told_ns, earlier_ns=other.earlier_ns) == other


def told_by(fragment: Fragment, taken_ns: int) -> Fragment:
    """*fragment*, told no later than it came, at *taken_ns*: a sender's clock may be ahead."""
    if fragment.told_ns <= taken_ns:
        return fragment
    return msgspec.structs.replace(fragment, told_ns=taken_ns)


def _said(fragment: Fragment) -> dict[str, tuple[Any, int]]:
    """By field and attribute what *fragment* says, and when that was told; what is empty or 0 is not said."""
    earlier = fragment.earlier_ns if isinstance(fragment, Merged) else {}
    fields = {name: value for name in _FIELDS if (value := getattr(fragment, name))}
    said = {**fields, **fragment.attributes}
    return {name: (value, earlier.get(name, fragment.told_ns)) for name, value in said.items()}
