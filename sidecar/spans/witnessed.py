"""One operation and its witnesses: who saw it, where each stands in its trace, and what was journalled of it last."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

import msgspec

from sidecar.model import ObservedOp
from sidecar.protocols import Receipt
from sidecar.spans.conventions_precedence import facts, told
from sidecar.spans.conventions_table import BESIDE, INSIDE, Kind

_NONE: frozenset[Kind] = frozenset()


class Member(msgspec.Struct, eq=False, frozen=True, gc=False):
    """One op of an operation: who saw it, and where it stands in its trace; *span* and *parent* are "" for none.

    *size* is the number of characters in what may be long of it.

    Thousands are remembered, in a hot path: neither these nor operations can be in a cycle, so none is tracked.
    """

    op: ObservedOp
    kind: Kind
    span: str
    parent: str
    size: int

    @classmethod
    def of(cls, op: ObservedOp, kind: Kind) -> Member:
        """*op*, seen as *kind*; it names its trace."""
        trace_id, span_id, parent_id = op.trace_id or "", op.span_id, op.parent_span_id
        return cls(
            op, kind, trace_id + span_id if span_id else "", trace_id + parent_id if parent_id else "", _size(op)
        )

    @property
    def times_ms(self) -> tuple[float, float]:
        """Start and end, in ms since the epoch."""
        end = _epoch_ms(self.op.timestamp)
        return end - self.op.duration_ms, end


class Operation(msgspec.Struct, eq=False, gc=False):
    """What is one: its members, at most one of a kind but for repeats, and the op that was journalled last.

    *receipt* is that op's; *number* is the operation's own.
    """

    members: tuple[Member, ...]
    op: ObservedOp
    at_s: float
    number: int = -1
    receipt: Receipt | None = None

    @property
    def size(self) -> int:
        """Characters of text in what its members say."""
        return sum([each.size for each in self.members])

    def has_kind(self, kind: Kind) -> bool:
        """Whether a member saw it so."""
        return any(each.kind is kind for each in self.members)

    def overlaps(self, other: Operation) -> bool:
        """Whether both were seen in one way: then they are two."""
        return any(other.has_kind(each.kind) for each in self.members)

    def holds_parent_of(self, child: Member) -> bool:
        """Whether *child*'s parent span is a member, of a kind that it is inside of."""
        kinds = INSIDE.get(child.kind, _NONE)
        return not self.has_kind(child.kind) and any(
            each.span == child.parent and each.kind in kinds for each in self.members
        )

    def holds_child_of(self, parent: Member) -> bool:
        """Whether a member's parent span is *parent*, of a kind that it is inside of."""
        return not self.has_kind(parent.kind) and any(
            each.parent == parent.span and parent.kind in INSIDE.get(each.kind, _NONE) for each in self.members
        )

    def holds_sibling_of(self, member: Member) -> bool:
        """Whether a member stands beside *member*, and one of the two is a report of the other."""
        return not self.has_kind(member.kind) and any(
            each.parent == member.parent
            and (each.kind in BESIDE.get(member.kind, _NONE) or member.kind in BESIDE.get(each.kind, _NONE))
            for each in self.members
        )

    def has(self, member: Member) -> bool:
        """Whether *member* is here already, and came again."""
        return any(each.kind is member.kind and each.span == member.span != "" for each in self.members)

    def take(self, other: Operation) -> None:
        """*other*'s members are of this operation."""
        self.members += other.members

    def with_member(self, member: Member) -> ObservedOp | None:
        """The op that says all, with *member*'s ids; None if *member* adds nothing to what was journalled."""
        self.members += (member,)
        said = self.told_by(member)
        return said if facts(said) != facts(self.op) else None

    def told_by(self, member: Member) -> ObservedOp:
        """All that is known, with *member*'s ids."""
        return told(((each.kind, each.op) for each in self.members), member.op)


def _size(op: ObservedOp) -> int:
    """Characters of what may be long in *op*; the rest is bounded."""
    size = len(op.input_summary) + len(op.output_summary) + len(op.error or "")
    for values in (op.features, op.extra):
        if values:
            size += sum([len(value) for value in values.values() if type(value) is str])
    return size


@lru_cache(maxsize=256)
def _epoch_ms(timestamp: str) -> float:
    try:
        return datetime.fromisoformat(timestamp).timestamp() * 1000
    except (ValueError, OverflowError):
        return 0.0
