"""Corrects received spans that claim to have ended in the future: their op ends when it was taken. Pure.

The time at which an op was taken is read from its id (UUID version 7), and the id of a received span's op is made from
the span's end. So a sender's fast clock could put an op into next year, where it would keep its incident open.
"""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec.structs import replace

from sidecar.clock import rfc3339_ms
from sidecar.ids import made_ms
from sidecar.model import ObservedOp
from sidecar.spans.conventions_values import op_id_of

_SKEW_NS = 1_000_000_000  # tolerated: clocks differ by this much


def ended_by(now_ns: int, ended_ns: int) -> int:
    """*ended_ns*, or *now_ns* if the end lies in the future; both in ns since the Unix epoch."""
    return ended_ns if ended_ns <= now_ns + _SKEW_NS else now_ns


def taken_by(now_ns: int, op: ObservedOp) -> ObservedOp:
    """*op*, read from another observer's span; if its time or id lies in the future, both are set to now.

    Raises ValueError if its timestamp is malformed.
    """
    if not _is_ahead(now_ns, op):
        return op
    trace_id, span_id = bytes.fromhex(op.trace_id or ""), bytes.fromhex(op.span_id or "")
    return replace(op, timestamp=rfc3339_ms(now_ns), op_id=op_id_of(trace_id, span_id, now_ns))


def _is_ahead(now_ns: int, op: ObservedOp) -> bool:
    limit_ns = now_ns + _SKEW_NS
    ended = datetime.fromisoformat(op.timestamp)
    if (ended if ended.tzinfo is not None else ended.replace(tzinfo=UTC)) > datetime.fromtimestamp(limit_ns / 1e9, UTC):
        return True
    return made_ms(op.op_id) > limit_ns // 1_000_000
