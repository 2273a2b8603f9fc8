"""One operation and its witnesses: who saw it, where each stands in its trace, and the op journalled last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache

import msgspec

from sidecar.model import ObservedOp
from sidecar.protocols import Receipt
from sidecar.spans.conventions_precedence import comparable, merged
from sidecar.spans.conventions_table import BESIDE, INSIDE, Kind
from sidecar.spans.reports import can_report

_NONE: frozenset[Kind] = frozenset()


class Member(msgspec.Struct, eq=False, frozen=True, gc=False):
    """One op of an operation: its witness, and its place in the trace; *span* and *parent* are "" if absent.

    *size* is the number of characters in its unbounded fields.

    Hot path, with thousands remembered: gc=False is safe, because neither members nor operations can form cycles.
    """

    op: ObservedOp
    kind: Kind
    span: str
    parent: str
    size: int

    @classmethod
    def of(cls, op: ObservedOp, kind: Kind) -> Member:
        """A member for *op*, witnessed as *kind*; *op* must have a trace id."""
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
    """One operation: its members, at most one of each kind except for repeats, and the op that was journalled last.

    *receipt* is that of `op`; *number* identifies the operation.
    """

    members: tuple[Member, ...]
    op: ObservedOp
    at_s: float
    number: int = -1
    receipt: Receipt | None = None

    @property
    def size(self) -> int:
        """Characters of text in its members."""
        return sum([each.size for each in self.members])

    def has_kind(self, kind: Kind) -> bool:
        """Whether a member is of this *kind*."""
        return any(each.kind is kind for each in self.members)

    def overlaps(self, other: Operation) -> bool:
        """Whether both have members of one kind: then they are different operations."""
        return any(other.has_kind(each.kind) for each in self.members)

    def holds_parent_of(self, child: Member) -> bool:
        """Whether a member is *child*'s parent span, of a kind that can contain *child*."""
        kinds = INSIDE.get(child.kind, _NONE)
        return not self.has_kind(child.kind) and any(
            each.span == child.parent and each.kind in kinds for each in self.members
        )

    def holds_child_of(self, parent: Member) -> bool:
        """Whether *parent* is the parent span of a member, and of a kind that can contain that member."""
        return not self.has_kind(parent.kind) and any(
            each.parent == parent.span and parent.kind in INSIDE.get(each.kind, _NONE) for each in self.members
        )

    def holds_sibling_of(self, member: Member, found: Sequence[Operation] = ()) -> bool:
        """Whether a member has the same parent as *member*, and one of the two is a report of the other.

        *found* are operations that *member* is known to belong to.
        """
        return not self.has_kind(member.kind) and any(
            each.parent == member.parent
            and (_reports(member, each, self.members) or _reports(each, member, _all_members(member, found)))
            for each in self.members
        )

    def has(self, member: Member) -> bool:
        """Whether *member* is known already: the same span from the same kind of witness."""
        return any(each.kind is member.kind and each.span == member.span != "" for each in self.members)

    def take(self, other: Operation) -> None:
        """Take over the members of *other*."""
        self.members += other.members

    def with_member(self, member: Member) -> ObservedOp | None:
        """Add *member*. Returns the merged op with *member*'s ids; None if it adds nothing to the journalled op."""
        self.members += (member,)
        said = self.merged_for(member)
        return said if comparable(said) != comparable(self.op) else None

    def merged_for(self, member: Member) -> ObservedOp:
        """The merged op of all members, with *member*'s ids."""
        return merged(((each.kind, each.op) for each in self.members), member.op)


def _reports(report: Member, sibling: Member, operation: Iterable[Member]) -> bool:
    """Whether *report* can be a report of its *sibling*, which belongs to *operation*."""
    return sibling.kind in BESIDE.get(report.kind, _NONE) and can_report(
        report.kind, report.op, sibling.kind, sibling.op, [each.op.endpoint for each in operation]
    )


def _all_members(member: Member, found: Sequence[Operation]) -> tuple[Member, ...]:
    return (member, *(each for operation in found for each in operation.members))


def _size(op: ObservedOp) -> int:
    """The number of characters in *op*'s unbounded fields; the other fields are bounded."""
    size = len(op.endpoint) + len(op.input_summary) + len(op.output_summary) + len(op.error or "")
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
