"""Deduplicates operations: recognises ops that several witnesses made of one operation, and merges them into one op.

A call through the proxy may also be seen by the agent's HTTP client, as a tool call, in Langfuse and in a posted event.
`conventions_table` says which of them can be the same, and which wins. Pure: no I/O, no clock of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

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
"""How long after an op another report of it may come: an exporter waits up to 5 s, and may take 10 s to send."""

MOST_OPERATIONS = 4096
"""As many as `LatestOps` remembers: a report about an older operation could not replace its op. 2.3 KiB each."""
MOST_CHARACTERS = 4 * 2**20
"""Bound on all remembered text: a single event may have a megabyte."""
_MOST_UNDER_PARENT = 64
_OURS = frozenset([Kind.PROXY, Kind.WRAPPER])
_HOLDERS = frozenset().union(*INSIDE.values())
_RECEIVED = frozenset(["otlp", "langfuse"])  # sources whose spans may arrive by two ways


def kind_of(op: ObservedOp) -> Kind:
    """The kind of witness, as far as *op* tells. A wrapped call looks like a proxied one; only its door can tell."""
    if op.source not in _RECEIVED:
        return KIND_OF_SOURCE.get(op.source or "", Kind.OTHER)
    operation = op.extra.get(OPERATION, op.extra.get(CONVENTION)) if op.extra else None
    known = KIND_OF_OPERATION.get(operation, Kind.OTHER) if isinstance(operation, str) else Kind.OTHER
    if op.source == "langfuse":
        # A bridge that posts events gives no operation; each of its posts is one.
        return Kind.LANGFUSE if operation is None or known is not Kind.OTHER else Kind.OTHER
    return known


class OneOp:
    """Remembers the operations of the last *window_s* seconds, at most *most*, oldest evicted first.

    Their texts are bounded by *most_characters*, except that the latest operation is always kept.

    `span_processor` calls `look` with each op before it is journalled, in any order, one at a time. It returns:

    - the op to journal in its place, with the incoming op's ids. If ops of the same operation were journalled before,
      this op merges all that is known and `amends` them, so that views which count only the latest op count the
      operation once; or None if the operation is known and the op adds nothing: its door then answers once the known
      op is in the journal.
    - the operation, if it is remembered. Its `receipt` is that of its last journalled op; the caller sets it. An
      operation whose receipt failed is forgotten.

    Only ops with a trace id can match. *at_s* is the time of arrival, in seconds on a monotonic clock.
    """

    def __init__(
        self, *, window_s: float = WINDOW_S, most: int = MOST_OPERATIONS, most_characters: int = MOST_CHARACTERS
    ) -> None:
        self._window_s = window_s
        self._most = most
        self._most_characters = most_characters
        self.characters = 0  # of text remembered
        self._operations: OrderedDict[int, Operation] = OrderedDict()
        self._by_span: dict[str, Operation] = {}
        self._under: dict[str, _Under] = {}
        self._next = 0
        self.absorbed = 0  # ops that added nothing
        self.amended = 0  # ops that replaced others
        self.forgotten = 0  # operations evicted before their window was over

    def __len__(self) -> int:
        return len(self._operations)

    def seen(self, op: ObservedOp, at_s: float, kind: Kind | None = None) -> ObservedOp | None:
        """The op to journal for *op*, or None. *kind*: as the door knows it; default `kind_of` the op."""
        return self.look(op, at_s, kind)[0]

    def look(self, op: ObservedOp, at_s: float, kind: Kind | None = None) -> tuple[ObservedOp | None, Operation | None]:
        """Like `seen`, plus the operation that *op* belongs to; None if no other op can be of the same operation."""
        if op.trace_id is None or op.amends is not None:  # names itself the op it corrects: not another witness
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
        """Drop *operation*, which was not journalled: later ops must not match it."""
        if self._operations.pop(operation.number, None) is not None:
            self._forget(operation)

    def _same(self, member: Member) -> list[Operation]:
        """The operations that *member* belongs to: none, one, or several, which *member* shows to be the same."""
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
            for several in siblings.beside(member, found):
                _add(found, _nearest(several, member, self._window_s))
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
        said = op if op is not None else operation.merged_for(member)
        said = msgspec.structs.replace(said, amends=" ".join(each.op_id for each in before if each.op_id) or None)
        operation.op = said
        operation.at_s = at_s
        self._operations.move_to_end(operation.number)
        self.amended += 1
        return said, operation

    def _merge(self, operation: Operation, other: Operation) -> None:
        """Merge *other* into *operation*: they turned out to be the same."""
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
    """The operations with a member under one parent span, newest last; bounded, as a parent may have thousands."""

    __slots__ = ("all", "reports")

    def __init__(self) -> None:
        self.all: dict[int, Operation] = {}  # by operation number
        self.reports: dict[int, Operation] = {}  # those reported by an event or by Langfuse

    def add(self, operation: Operation, kind: Kind) -> None:
        self.all[operation.number] = operation
        if kind in BESIDE:
            self.reports[operation.number] = operation
        if len(self.all) > _MOST_UNDER_PARENT:
            self.without(next(iter(self.all.values())))

    def beside(self, member: Member, found: list[Operation]) -> Iterator[list[Operation]]:
        """Yield the operations that *member* can report, or, by kind of report, those that can report it."""
        if member.kind in BESIDE:
            yield [each for each in self.all.values() if each.holds_sibling_of(member, found)]
        elif self.reports:
            reports = [each for each in self.reports.values() if each.holds_sibling_of(member, found)]
            for kind in BESIDE:
                yield [each for each in reports if each.has_kind(kind)]

    def without(self, operation: Operation) -> bool:
        """Remove *operation*. Returns whether none is left."""
        self.all.pop(operation.number, None)
        if self.reports:
            self.reports.pop(operation.number, None)
        return not self.all


def _can_be_same(op: ObservedOp, kind: Kind) -> bool:
    """Whether another op can match: not for an event without a parent span, nor for a correction."""
    if kind is Kind.EVENT:
        return op.parent_span_id is not None
    return kind is not Kind.OTHER or op.source in _RECEIVED


def _must_be_kept(member: Member) -> bool:
    """Whether *member* is journalled even if it adds nothing.

    A call span made by us is the parent of other spans, which would lack it. The id of an event is deduplicated only
    if its line is in the journal.
    """
    return member.kind in _OURS or member.op.event_id is not None


def _nearest(operations: Iterable[Operation], member: Member, window_s: float) -> Operation | None:
    """The one of *operations* closest in time to *member*; None if all are further away than *window_s*."""
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
