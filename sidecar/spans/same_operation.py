"""One operation is one op: ops that several witnesses made of it are known as the same, and one of them wins.

A call through the proxy may also be seen by the agent's HTTP client, as the tool it was made for, in Langfuse and in a
posted event. Who wins, and which of them can be the same, is `conventions_table`. Pure: no I/O, no clock of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

import msgspec

from sidecar.model import ObservedOp
from sidecar.spans.conventions_precedence import facts, told
from sidecar.spans.conventions_table import (
    BESIDE,
    CONVENTION,
    INSIDE,
    KIND_OF_OPERATION,
    KIND_OF_SOURCE,
    OPERATION,
    Kind,
)

WINDOW_S = 15.0
"""How long after an op another report of it may come: a span's exporter waits 5 s, and may take 10 s to send."""

MOST_OPERATIONS = 8192
_MOST_UNDER_PARENT = 64
_RECEIVED = frozenset(["otlp", "langfuse"])  # sources whose spans may come by two ways


def kind_of(op: ObservedOp) -> Kind:
    """How *op* was seen, as far as the op says it. A wrapped call looks as a proxied one: its door knows better."""
    operation = op.extra.get(OPERATION, op.extra.get(CONVENTION)) if op.extra else None
    known = KIND_OF_OPERATION.get(operation, Kind.OTHER) if isinstance(operation, str) else Kind.OTHER
    if op.source == "langfuse":
        # A bridge that posts events says no operation: what it posts is one.
        return Kind.LANGFUSE if operation is None or known is not Kind.OTHER else Kind.OTHER
    if op.source == "otlp":
        return known
    return KIND_OF_SOURCE.get(op.source or "", Kind.OTHER)


class OneOp:
    """Remembers the operations of the last *window_s* seconds, at most *most* of them; the oldest go first.

    The pipeline calls `seen` with each op before it is journalled, in any order, from one thread:

    - it gives the op to journal in the op's place, with the ids of the op that came in. If others of the same operation
      were journalled before, this one says all that is known by now and `amends` them, so that views which count
      the latest count it once;
    - or None: the operation is known and this adds nothing. Its door answers as if it had been journalled.

    Only ops that name their trace can be the same. *at_s* is the time of arrival, in seconds on a monotonic clock.
    """

    def __init__(self, *, window_s: float = WINDOW_S, most: int = MOST_OPERATIONS) -> None:
        self._window_s = window_s
        self._most = most
        self._operations: OrderedDict[int, _Operation] = OrderedDict()
        self._by_span: dict[str, _Operation] = {}
        self._under: dict[str, list[_Operation]] = {}
        self._next = 0
        self.absorbed = 0  # ops that added nothing
        self.amended = 0  # ops that took the place of others
        self.forgotten = 0  # operations that had to go before their window was over

    def __len__(self) -> int:
        return len(self._operations)

    def seen(self, op: ObservedOp, at_s: float, kind: Kind | None = None) -> ObservedOp | None:
        """The op to journal for *op*, or None. *kind* where the door knows it; else `kind_of` the op."""
        self._expire(at_s)
        if op.trace_id is None or op.amends is not None:  # what says itself which op it corrects is no further witness
            return op
        kind = kind or kind_of(op)
        if not _can_be_same(op, kind):
            return op
        member = _Member(op, kind)
        same = self._same(member)
        if not same:
            self._remember(_Operation(member, at_s))
            return op
        return self._join(same, member, at_s)

    def _same(self, member: _Member) -> list[_Operation]:
        """The operations that *member* is: none, one, or several that its coming shows to be one."""
        known = self._by_span.get(member.span)
        if known is not None:
            return [known]
        parent = self._by_span.get(member.parent)
        under = self._under.get(member.span, ())
        beside = self._under.get(member.parent, ())
        most_ms = self._window_s * 1000
        candidates = (
            parent if parent is not None and parent.holds_parent_of(member) else None,
            _nearest((each for each in under if each.holds_child_of(member)), member, most_ms),
            _nearest((each for each in beside if each.holds_sibling_of(member)), member, most_ms),
        )
        found: list[_Operation] = []
        for candidate in candidates:
            if candidate is not None and not any(each.kinds & candidate.kinds for each in found):
                found.append(candidate)
        return found

    def _join(self, same: list[_Operation], member: _Member, at_s: float) -> ObservedOp | None:
        operation = same[0]
        before = [each.op for each in same]
        for other in same[1:]:
            self._merge(operation, other)
        if operation.has(member):
            self.absorbed += 1
            return None
        op = operation.with_member(member)
        self._index(operation, member)
        if op is None and len(before) == 1:
            self.absorbed += 1
            return None
        said = op if op is not None else operation.told_by(member)
        said = msgspec.structs.replace(said, amends=" ".join(each.op_id for each in before if each.op_id) or None)
        operation.op = said
        operation.at_s = at_s
        self._operations.move_to_end(operation.number)
        self.amended += 1
        return said

    def _merge(self, operation: _Operation, other: _Operation) -> None:
        """*other* turns out to be *operation*."""
        operation.take(other)
        for span in other.spans:
            self._by_span[span] = operation
        for parent in other.parents:
            under = self._under[parent]
            under.remove(other)
            if operation not in under:
                under.append(operation)
        self._operations.pop(other.number, None)

    def _remember(self, operation: _Operation) -> None:
        if len(self._operations) >= self._most:
            self._forget(self._operations.popitem(last=False)[1])
            self.forgotten += 1
        operation.number = self._next
        self._next += 1
        self._operations[operation.number] = operation
        for member in operation.members:
            self._index(operation, member)

    def _index(self, operation: _Operation, member: _Member) -> None:
        if member.span:  # an event that is not yet a span has none
            self._by_span[member.span] = operation
            operation.spans.add(member.span)
        if member.parent and member.parent not in operation.parents:
            under = self._under.setdefault(member.parent, [])
            under.append(operation)
            operation.parents.add(member.parent)
            if len(under) > _MOST_UNDER_PARENT:  # of one that holds thousands, the newest can still be reported
                under.pop(0).parents.discard(member.parent)

    def _expire(self, at_s: float) -> None:
        while self._operations:
            oldest = next(iter(self._operations.values()))
            if at_s - oldest.at_s <= self._window_s:
                return
            self._forget(self._operations.popitem(last=False)[1])

    def _forget(self, operation: _Operation) -> None:
        for span in operation.spans:
            self._by_span.pop(span, None)
        for parent in operation.parents:
            under = self._under[parent]
            under.remove(operation)
            if not under:
                del self._under[parent]


class _Member:
    """One op of an operation: who saw it, where it stands in its trace, when it was. Times are ms since the epoch."""

    __slots__ = ("end_ms", "kind", "op", "parent", "span", "start_ms")

    def __init__(self, op: ObservedOp, kind: Kind) -> None:
        self.op = op
        self.kind = kind
        self.span = f"{op.trace_id}{op.span_id}" if op.span_id else ""
        self.parent = f"{op.trace_id}{op.parent_span_id}" if op.parent_span_id else ""
        self.end_ms = _epoch_ms(op.timestamp)
        self.start_ms = self.end_ms - op.duration_ms


class _Operation:
    """What is one: its members, at most one of a kind but for repeats, and the op that was journalled last."""

    def __init__(self, member: _Member, at_s: float) -> None:
        self.members = [member]
        self.kinds = {member.kind}
        self.op = member.op
        self.at_s = at_s
        self.number = -1
        self.spans: set[str] = set()
        self.parents: set[str] = set()

    def holds_parent_of(self, child: _Member) -> bool:
        """Whether *child*'s parent span is a member, of a kind that it is inside of."""
        kinds = INSIDE.get(child.kind, frozenset())
        return child.kind not in self.kinds and any(
            each.span == child.parent and each.kind in kinds for each in self.members
        )

    def holds_child_of(self, parent: _Member) -> bool:
        """Whether a member's parent span is *parent*, of a kind that it is inside of."""
        return parent.kind not in self.kinds and any(
            each.parent == parent.span and parent.kind in INSIDE.get(each.kind, ()) for each in self.members
        )

    def holds_sibling_of(self, member: _Member) -> bool:
        """Whether a member stands beside *member*, and one of the two is a report of the other."""
        return member.kind not in self.kinds and any(
            each.parent == member.parent
            and (each.kind in BESIDE.get(member.kind, ()) or member.kind in BESIDE.get(each.kind, ()))
            for each in self.members
        )

    def has(self, member: _Member) -> bool:
        """Whether *member* is here already, and came again."""
        return any(each.kind is member.kind and each.span == member.span != "" for each in self.members)

    def take(self, other: _Operation) -> None:
        """*other*'s members are of this operation."""
        self.members += other.members
        self.kinds |= other.kinds
        self.spans |= other.spans
        self.parents |= other.parents

    def with_member(self, member: _Member) -> ObservedOp | None:
        """The op that says all, with *member*'s ids; None if *member* adds nothing to what was journalled."""
        self.members.append(member)
        self.kinds.add(member.kind)
        said = self.told_by(member)
        return said if facts(said) != facts(self.op) else None

    def told_by(self, member: _Member) -> ObservedOp:
        """All that is known, with *member*'s ids."""
        return told(((each.kind, each.op) for each in self.members), member.op)


def _can_be_same(op: ObservedOp, kind: Kind) -> bool:
    """Whether another op can be of the same operation: not of an event that names no parent, nor of a correction."""
    if kind is Kind.EVENT:
        return op.parent_span_id is not None
    return kind is not Kind.OTHER or op.source in _RECEIVED


def _nearest(operations: Iterable[_Operation], member: _Member, most_ms: float) -> _Operation | None:
    """That of *operations* whose time is nearest to *member*'s; None if each is further off than *most_ms*."""
    best, best_gap = None, (most_ms, most_ms)
    for operation in operations:
        for each in operation.members:
            apart = max(each.start_ms - member.end_ms, member.start_ms - each.end_ms, 0)
            gap = (apart, abs(each.end_ms - member.end_ms))
            if apart <= most_ms and (best is None or gap < best_gap):
                best, best_gap = operation, gap
    return best


@lru_cache(maxsize=256)
def _epoch_ms(timestamp: str) -> float:
    try:
        return datetime.fromisoformat(timestamp).timestamp() * 1000
    except (ValueError, OverflowError):
        return 0.0
