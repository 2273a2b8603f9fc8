"""An index of recent ops that a score may judge or an update may change, with the scores each has so far.

Consumes every settled op, and the journal's tail at start. It finds an op by its span ids, even if other ops amended it
since, and builds the next op that amends it. Gateway calls are indexed too: an observation may be the same call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from sidecar.ids import made_ms
from sidecar.langfuse.book import SCORE_EVENT, told_ns_in
from sidecar.langfuse.judgements import Judgement, judged, scores_in, without_scores
from sidecar.model import ObservedOp, amended_ids
from sidecar.normalize import Normalizer

MOST_OPS: Final = 4096  # as many as the views remember
MOST_BYTES: Final = 6 * 2**20
_RECEIVED: Final = frozenset(["langfuse", "otlp"])
_CALL: Final = "mcp"
_ROW_BYTES: Final = 600
_SCORE_BYTES: Final = 300
_ALIAS_BYTES: Final = 200
_MS_NS: Final = 1_000_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ObservedOp).decode


class JudgedOp:
    """One op: its own content without scores (`own`), the id of the op that amended it last, and scores by name.

    `told_ns`: by the name of a score, when what it says was told, in ns since the epoch; 0 if an older journal has it.
    """

    __slots__ = (
        "_own",
        "_score_bytes",
        "aliases",
        "latest_id",
        "parent",
        "scores",
        "span_id",
        "spans",
        "told_ns",
        "trace_id",
    )

    def __init__(self, op: ObservedOp) -> None:
        self.trace_id = op.trace_id or ""
        self.span_id = op.span_id or ""
        self.parent = op.parent_span_id
        self.latest_id = op.op_id or ""
        self.aliases = [self.latest_id]
        self.spans: list[str] = []  # keys of other spans that are the same operation
        self.scores: dict[str, Judgement] = {}
        self.told_ns: dict[str, int] = {}
        self._score_bytes = 0
        self.tell(op)

    @property
    def size(self) -> int:
        """Its approximate size in bytes."""
        return _ROW_BYTES + len(self._own) + self._score_bytes + _ALIAS_BYTES * (len(self.aliases) + len(self.spans))

    @property
    def own(self) -> ObservedOp:
        """The op without scores."""
        return _decode(self._own)

    def tell(self, op: ObservedOp) -> None:
        """Replace its content, scores excluded, by *op*."""
        self._own = _encode(op)

    def judge(self, scores: dict[str, Judgement], told_ns: int) -> None:
        """Replace all its scores by *scores*, of which those that are new were told at *told_ns*."""
        self.told_ns |= {name: told_ns for name, each in scores.items() if self.scores.get(name) != each}
        self.scores = scores
        self._score_bytes = sum(
            _SCORE_BYTES + len(each.name) + len(str(each.value)) + len(each.comment) for each in scores.values()
        )

    def amended_by(self, op_id: str) -> None:
        """Record that the op *op_id* is now the latest amendment."""
        self.latest_id = op_id
        self.aliases.append(op_id)


class JudgedOps:
    """At most 4096 ops and 6 MiB, oldest evicted first. Used on the event loop's thread only.

    *counts* returns whether the views still remember an op id. Other ops must not be amended: the amendment would
    count beside the op it amends.
    """

    def __init__(self, normalizer: Normalizer, counts: Callable[[str], bool]) -> None:
        self._normalizer = normalizer
        self._counts = counts
        self._rows: OrderedDict[str, JudgedOp] = OrderedDict()
        self._absorbed: OrderedDict[str, JudgedOp] = OrderedDict()
        self._called_from: dict[str, JudgedOp] = {}
        self._by_id: dict[str, JudgedOp] = {}
        self._by_span: dict[str, JudgedOp] = {}  # the newest op per span id
        self._by_trace: dict[str, list[JudgedOp]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def held_bytes(self) -> int:
        """The approximate size of all rows in bytes."""
        return self._bytes

    def consume(self, op: ObservedOp) -> None:
        """Index one settled op. O(1)."""
        if op.trace_id is None or op.span_id is None:
            return
        for op_id in amended_ids(op):
            row = self._by_id.get(op_id)
            if row is not None:
                self._amended(row, op)
                return
        if op.source in _RECEIVED or op.amends is not None or (op.source == _CALL and op.parent_span_id is not None):
            self._remember(op)

    def absorbed(self, op: ObservedOp, into: ObservedOp) -> None:
        """Record that *op* was absorbed as a report of *into*: a score of the one judges the other."""
        self._add_span(op, self._by_id.get(into.op_id or "") or self._remember(into))
        self._make_room()

    def call_of(self, op: ObservedOp) -> JudgedOp | None:
        """The gateway call made inside *op*'s span, the last if there were several."""
        return self._if_counted(self._called_from.get(f"{op.trace_id}{op.span_id}"))

    def find(self, trace_id: str, span_id: str) -> JudgedOp | None:
        """The op of that span; without *trace_id* the newest with that span id."""
        if trace_id:
            key = trace_id + span_id
            return self._if_counted(self._rows.get(key) or self._absorbed.get(key))
        return self._if_counted(self._by_span.get(span_id))

    def root(self, trace_id: str, *, is_last_chance: bool) -> JudgedOp | None:
        """The root op of a trace. As a last chance, its only op whose parent is not an op of the trace."""
        rows = self._by_trace.get(trace_id, [])
        roots = [row for row in rows if row.parent is None]
        if not roots and is_last_chance:
            roots = [row for row in rows if f"{trace_id}{row.parent}" not in self._rows]
        return self._if_counted(roots[0]) if len(roots) == 1 else None

    def amended(self, row: JudgedOp, own: ObservedOp, more: Judgement | None = None) -> ObservedOp:
        """The op that amends *row* next: *own* with all scores of *row*, and with *more*."""
        scores = {**row.scores, more.name: more} if more is not None else row.scores
        op = judged(own, scores)
        return self._normalizer.op(
            msgspec.structs.replace(
                op, amends=row.latest_id, trace_id=row.trace_id, parent_span_id=row.parent, span_id=None
            )
        )

    def _add_span(self, op: ObservedOp, row: JudgedOp) -> None:
        """Let the span of *op* refer to *row*, too."""
        key = f"{op.trace_id}{op.span_id}"
        if self._rows.get(row.trace_id + row.span_id) is not row:
            return  # the row was evicted already
        if key in self._absorbed:
            self._drop_span(key, self._absorbed.pop(key))
        self._absorbed[key] = row
        row.spans.append(key)
        self._bytes += _ALIAS_BYTES
        if len(self._absorbed) > MOST_OPS:
            self._drop_span(*self._absorbed.popitem(last=False))

    def _drop_span(self, key: str, row: JudgedOp) -> None:
        row.spans.remove(key)
        self._bytes -= _ALIAS_BYTES

    def _if_counted(self, row: JudgedOp | None) -> JudgedOp | None:
        return row if row is not None and self._counts(row.latest_id) else None

    def _remember(self, op: ObservedOp) -> JudgedOp:
        key = f"{op.trace_id}{op.span_id}"
        known = self._rows.get(key)
        if known is not None:  # the same span again: its first content stays, as in every view
            return known
        row = JudgedOp(op)
        self._rows[key] = row
        self._by_id[row.latest_id] = row
        self._by_span[row.span_id] = row
        self._by_trace.setdefault(row.trace_id, []).append(row)
        if op.source == _CALL and op.parent_span_id is not None:
            self._called_from[f"{op.trace_id}{op.parent_span_id}"] = row
        self._bytes += row.size
        self._make_room()
        return row

    def _amended(self, row: JudgedOp, op: ObservedOp) -> None:
        self._bytes -= row.size
        if (op.event_id or "").startswith(SCORE_EVENT):
            row.judge(scores_in(op.extra or {}, row.own.extra or {}), _told_ns(op))
        else:
            row.tell(without_scores(op, row.own))
        row.amended_by(op.op_id or "")
        self._by_id[row.latest_id] = row
        self._bytes += row.size
        self._add_span(op, row)
        self._make_room()

    def _make_room(self) -> None:
        while len(self._rows) > MOST_OPS or self._bytes > MOST_BYTES:
            self._forget(self._rows.popitem(last=False)[1])

    def _forget(self, row: JudgedOp) -> None:
        self._bytes -= row.size
        for op_id in row.aliases:
            self._by_id.pop(op_id, None)
        for key in row.spans:
            del self._absorbed[key]
        if self._by_span.get(row.span_id) is row:
            del self._by_span[row.span_id]
        called_from = f"{row.trace_id}{row.parent}"
        if self._called_from.get(called_from) is row:
            del self._called_from[called_from]
        rows = self._by_trace[row.trace_id]
        rows.remove(row)
        if not rows:
            del self._by_trace[row.trace_id]


def _told_ns(op: ObservedOp) -> int:
    """When the score was told that *op* was made from: not after the op, as a sender's clock may be ahead."""
    return min(told_ns_in(op.event_id or ""), (made_ms(op.op_id) + 1) * _MS_NS)
