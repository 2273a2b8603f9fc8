"""Records Langfuse observations as ops: each once, amended if an update brings news.

Called by `desk`, which knows when an observation is complete; records through the witness of received spans, or through
the recorder for an op that amends another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from sidecar.errors import OverloadedError
from sidecar.ids import new_id
from sidecar.langfuse.judged_ops import JudgedOp, JudgedOps
from sidecar.model import Fragment, ObservedOp, Scalar
from sidecar.protocols import KnownEvents, Receipt, Recorder, SpanWitness
from sidecar.protocols_langfuse import FragmentOps
from sidecar.spans.attributes import LANGFUSE_TYPE

UNFINISHED: Final = "unfinished"
"""The key in `extra` that marks an op whose end was never reported."""

_OWN_WORDS: Final = {"v", "op_id", "trace_id", "span_id", "parent_span_id", "event_id", "amends"}
_SAID: Final = tuple(name for name in ObservedOp.__struct_fields__ if name not in _OWN_WORDS)


class Observations:
    """Records observations. *is_call*: whether an op is a call, which the gateway proxy may have seen as well.

    Counters since start: `recorded` ops, `amended` ones among them, `repeated` updates without news, `unfinished`
    observations recorded without an end.
    """

    def __init__(
        self,
        judged: JudgedOps,
        *,
        reader: FragmentOps,
        witness: SpanWitness,
        recorder: Recorder,
        known: KnownEvents,
        is_call: Callable[[ObservedOp], bool],
    ) -> None:
        self._judged = judged
        self._reader = reader
        self._witness = witness
        self._recorder = recorder
        self._known = known
        self._is_call = is_call
        self.recorded = 0
        self.amended = 0
        self.repeated = 0
        self.unfinished = 0

    def told(self, fragment: Fragment) -> Receipt | None:
        """Record the complete *fragment*. Returns None if it is no op, or brings no news. Raises OverloadedError."""
        op = self._op_of(fragment)
        if op is None:
            return None
        row = self._judged.find(op.trace_id or "", op.span_id or "")
        if row is None:
            return self._first(op)
        if row.own.source != op.source:
            return self._seen_by_other(row, op)
        if _said(row.own) == _said(op):
            self.repeated += 1
            return None
        return self._amending(row, op)

    def pulled(self, fragment: Fragment, tell: Callable[[], None], *, is_told: bool) -> Receipt | None:
        """Like `told`, for a fragment from a server. It rounds times and adds details, so only outcomes are news.

        News of a known op, or of an observation of which something *is_told* already, are not recorded: they must be
        told as well, by *tell*, or what is told next would be merged without them.
        """
        op = self._op_of(fragment)
        if op is None:
            return None
        row = self._judged.find(op.trace_id or "", op.span_id or "")
        if row is None and self._is_call(op) and (row := self._judged.call_of(op)) is not None:
            self._judged.absorbed(op, row.own)
        if row is not None and row.own.source != op.source:
            return self._seen_by_other(row, op)
        is_new = _is_news(row.own, op) if row is not None else not self._known.knows(op.event_id or "")
        if not is_new:
            self.repeated += 1
            return None
        if row is None and not is_told:
            return self._counted(op, self._witness.witness(op))
        tell()
        return None

    def _seen_by_other(self, row: JudgedOp, op: ObservedOp) -> Receipt | None:
        """Record only a failure in *op*: the rest is the word of a better witness, such as the proxy, and stays."""
        own = row.own
        if op.success or not own.success:
            self.repeated += 1
            return None
        return self._amending(row, _with_failure(own, op))

    def _op_of(self, fragment: Fragment) -> ObservedOp | None:
        if LANGFUSE_TYPE not in fragment.attributes:
            attributes: dict[str, Scalar] = {**fragment.attributes, LANGFUSE_TYPE: "span"}
            fragment = msgspec.structs.replace(fragment, attributes=attributes)
        if fragment.end_ns:
            return self._reader.op_of(fragment)
        end_ns = max(fragment.told_ns, fragment.start_ns)
        op = self._reader.op_of(msgspec.structs.replace(fragment, end_ns=end_ns))
        if op is None:
            return None
        return msgspec.structs.replace(op, extra={**(op.extra or {}), UNFINISHED: True})

    def _first(self, op: ObservedOp) -> Receipt | None:
        if self._known.knows(op.event_id or ""):  # too old to be amended
            self.repeated += 1
            return None
        return self._counted(op, self._witness.witness(op))

    def _amending(self, row: JudgedOp, op: ObservedOp) -> Receipt:
        linked = [(row.trace_id, row.span_id)]
        said = msgspec.structs.replace(self._judged.amended(row, op), op_id=new_id())
        receipt = self._counted(said, self._recorder.record(said, linked=linked))
        self.amended += 1
        return receipt

    def _counted(self, op: ObservedOp, receipt: Receipt | None) -> Receipt:
        receipt = with_room(receipt)
        self.recorded += 1
        self.unfinished += UNFINISHED in (op.extra or {})
        return receipt


def with_room(receipt: Receipt | None) -> Receipt:
    """*receipt*. Raises OverloadedError if it is None."""
    if receipt is None:
        raise OverloadedError("the journal cannot keep up", "too much waits to be written", "Send it again later")
    return receipt


def _said(op: ObservedOp) -> tuple[Any, ...]:
    return tuple(getattr(op, name) for name in _SAID)


def _with_failure(own: ObservedOp, told: ObservedOp) -> ObservedOp:
    """*own* with the failure of *told*."""
    outcome = {name: getattr(told, name) for name in ("success", "error", "error_type", "output_summary")}
    return msgspec.structs.replace(own, **outcome)


def _is_news(known: ObservedOp, pulled: ObservedOp) -> bool:
    """Whether *pulled* has another outcome, or an end that was missing."""
    return known.success != pulled.success or (
        UNFINISHED in (known.extra or {}) and UNFINISHED not in (pulled.extra or {})
    )
