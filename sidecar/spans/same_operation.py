"""One operation is one op: ops that several witnesses made of it are known as the same, and one of them wins.

A call through the proxy may also be seen by the agent's HTTP client, as the tool it was made for, in Langfuse and in a
posted event. Who wins, and which of them can be the same, is `conventions_table`. Pure: no I/O, no clock of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from sidecar.model import ObservedOp
from sidecar.spans.conventions_table import (
    BESIDE,
    CONVENTION,
    INSIDE,
    KIND_OF_OPERATION,
    KIND_OF_SOURCE,
    OPERATION,
    Kind,
)
from sidecar.spans.witnessed import Member, Operation

WINDOW_S = 15.0
"""How long after an op another report of it may come: a span's exporter waits 5 s, and may take 10 s to send."""

MOST_OPERATIONS = 4096
"""No more are known to the views (`LatestOps`): what is told of an older one could take no op's place. 2.3 KiB each."""
MOST_CHARACTERS = 4 * 2**20
"""Of all texts in what is remembered: an event may be of a megabyte."""
_MOST_UNDER_PARENT = 64
_OURS = frozenset([Kind.PROXY, Kind.WRAPPER])
_HOLDERS = frozenset().union(*INSIDE.values())
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

    Of their texts at most *most_characters* are kept, the latest operation's apart.

    `span_processor` calls `look` with each op before it is journalled, in any order, one at a time:

    - it gives the op to journal in the op's place, with the ids of the op that came in. If others of the same operation
      were journalled before, this one says all that is known by now and `amends` them, so that views which count
      the latest count it once;
    - or None: the operation is known and this adds nothing. Its door answers once what is known is in the journal.

    And the operation, if it is remembered, whose `receipt` is that of the op journalled last: the caller sets it. One
    whose receipt says that it was not written is none. Only ops that name their trace can be the same. *at_s* is the
    time of arrival, in seconds on a monotonic clock.
    """

    def __init__(
        self, *, window_s: float = WINDOW_S, most: int = MOST_OPERATIONS, most_characters: int = MOST_CHARACTERS
    ) -> None:
        self._window_s = window_s
        self._most = most
        self._most_characters = most_characters
        self.characters = 0  # of text in what is remembered
        self._operations: OrderedDict[int, Operation] = OrderedDict()
        self._by_span: dict[str, Operation] = {}
        self._under: dict[str, _Under] = {}
        self._next = 0
        self.absorbed = 0  # ops that added nothing
        self.amended = 0  # ops that took the place of others
        self.forgotten = 0  # operations that had to go before their window was over

    def __len__(self) -> int:
        return len(self._operations)

    def seen(self, op: ObservedOp, at_s: float, kind: Kind | None = None) -> ObservedOp | None:
        """The op to journal for *op*, or None. *kind* where the door knows it; else `kind_of` the op."""
        return self.look(op, at_s, kind)[0]

    def look(self, op: ObservedOp, at_s: float, kind: Kind | None = None) -> tuple[ObservedOp | None, Operation | None]:
        """The same, with the operation that *op* is of; None for an op that no other can be the same as."""
        if op.trace_id is None or op.amends is not None:  # what says itself which op it corrects is no further witness
            return op, None
        kind = kind or kind_of(op)
        if not _can_be_same(op, kind):
            return op, None
        self._expire(at_s)
        member = Member.of(op, kind)
        same = self._same(member)
        if not same:
            operation = Operation((member,), op, at_s)
            self._remember(operation)
            joined: tuple[ObservedOp | None, Operation] = (op, operation)
        else:
            joined = self._join(same, member, at_s)
        if self.characters > self._most_characters:
            self._trim()
        return joined

    def forget(self, operation: Operation) -> None:
        """*operation* was not journalled: for all that comes it never was."""
        if self._operations.pop(operation.number, None) is not None:
            self._forget(operation)

    def _same(self, member: Member) -> list[Operation]:
        """The operations that *member* is: none, one, or several that its coming shows to be one."""
        found = self._found(member)
        lost = [each for each in found if each.receipt is not None and each.receipt.taken is False] if found else found
        for each in lost:
            self.forget(each)
        return [each for each in found if each not in lost] if lost else found

    def _found(self, member: Member) -> list[Operation]:
        known = self._by_span.get(member.span)
        if known is not None:
            return [known]
        kind, parent = member.kind, member.parent
        found: list[Operation] = []
        holder = self._by_span.get(parent) if parent and kind in INSIDE else None
        if holder is not None and holder.holds_parent_of(member):
            found.append(holder)
        if kind in _HOLDERS and (children := self._under.get(member.span)) is not None:
            _add(
                found,
                _nearest(
                    (each for each in children.all.values() if each.holds_child_of(member)), member, self._window_s
                ),
            )
        if kind is not Kind.OTHER and (siblings := self._under.get(parent)) is not None:
            beside = siblings.all if kind in BESIDE else siblings.reports
            _add(
                found,
                _nearest((each for each in beside.values() if each.holds_sibling_of(member)), member, self._window_s),
            )
        return found

    def _join(self, same: list[Operation], member: Member, at_s: float) -> tuple[ObservedOp | None, Operation]:
        operation = same[0]
        before = [each.op for each in same]
        for other in same[1:]:
            self._merge(operation, other)
        if operation.has(member):
            self.absorbed += 1
            return None, operation
        op = operation.with_member(member)
        self.characters += member.size
        self._index(operation, member)
        if op is None and len(before) == 1 and not _must_be_kept(member):
            self.absorbed += 1
            return None, operation
        said = op if op is not None else operation.told_by(member)
        said = msgspec.structs.replace(said, amends=" ".join(each.op_id for each in before if each.op_id) or None)
        operation.op = said
        operation.at_s = at_s
        self._operations.move_to_end(operation.number)
        self.amended += 1
        return said, operation

    def _merge(self, operation: Operation, other: Operation) -> None:
        """*other* turns out to be *operation*."""
        self._operations.pop(other.number, None)
        self._forget(other)
        for member in other.members:
            self._index(operation, member)
        operation.take(other)
        self.characters += other.size

    def _remember(self, operation: Operation) -> None:
        if len(self._operations) >= self._most:
            self._forget(self._operations.popitem(last=False)[1])
            self.forgotten += 1
        operation.number = self._next
        self._next += 1
        self.characters += operation.size
        self._operations[operation.number] = operation
        for member in operation.members:
            self._index(operation, member)

    def _trim(self) -> None:
        while self.characters > self._most_characters and len(self._operations) > 1:
            self._forget(self._operations.popitem(last=False)[1])
            self.forgotten += 1

    def _index(self, operation: Operation, member: Member) -> None:
        if member.span:
            self._by_span[member.span] = operation
        if member.parent and member.kind is not Kind.OTHER:
            under = self._under.get(member.parent)
            if under is None:
                under = self._under[member.parent] = _Under()
            under.add(operation, member.kind)

    def _expire(self, at_s: float) -> None:
        while self._operations:
            oldest = next(iter(self._operations.values()))
            if at_s - oldest.at_s <= self._window_s:
                return
            self._forget(self._operations.popitem(last=False)[1])

    def _forget(self, operation: Operation) -> None:
        self.characters -= operation.size
        for member in operation.members:
            if self._by_span.get(member.span) is operation:
                del self._by_span[member.span]
            under = self._under.get(member.parent)
            if under is not None and under.without(operation):
                del self._under[member.parent]


class _Under:
    """The operations with a member under one parent span, the newest last: of thousands others may tell of these."""

    __slots__ = ("all", "reports")

    def __init__(self) -> None:
        self.all: dict[int, Operation] = {}  # by number
        self.reports: dict[int, Operation] = {}  # those of which an event or Langfuse told

    def add(self, operation: Operation, kind: Kind) -> None:
        self.all[operation.number] = operation
        if kind in BESIDE:
            self.reports[operation.number] = operation
        if len(self.all) > _MOST_UNDER_PARENT:
            self.without(next(iter(self.all.values())))

    def without(self, operation: Operation) -> bool:
        """Take *operation* out; whether none is left."""
        self.all.pop(operation.number, None)
        if self.reports:
            self.reports.pop(operation.number, None)
        return not self.all


def _can_be_same(op: ObservedOp, kind: Kind) -> bool:
    """Whether another op can be of the same operation: not of an event that names no parent, nor of a correction."""
    if kind is Kind.EVENT:
        return op.parent_span_id is not None
    return kind is not Kind.OTHER or op.source in _RECEIVED


def _must_be_kept(member: Member) -> bool:
    """Whether *member* is journalled even if it adds nothing.

    The span of a call that we saw or made is the parent of others, which would miss it; an event's id is known from
    its line.
    """
    return member.kind in _OURS or member.op.event_id is not None


def _nearest(operations: Iterable[Operation], member: Member, window_s: float) -> Operation | None:
    """That of *operations* whose time is nearest to *member*'s; None if each is further off than *window_s*."""
    most_ms = window_s * 1000
    best, best_gap = None, (most_ms, most_ms)
    for operation in operations:
        start, end = member.times_ms
        for each in operation.members:
            other_start, other_end = each.times_ms
            apart = max(other_start - end, start - other_end, 0)
            gap = (apart, abs(other_end - end))
            if apart <= most_ms and (best is None or gap < best_gap):
                best, best_gap = operation, gap
    return best


def _add(found: list[Operation], operation: Operation | None) -> None:
    if operation is not None and not any(each.overlaps(operation) for each in found):
        found.append(operation)
