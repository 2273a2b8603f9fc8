"""Event times for comparing and counting: an op's own timestamp, but never later than its arrival. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from sidecar.clock import rfc3339_ms
from sidecar.model import ObservedOp

_UUID7 = "7"
_SKEW_MS = 1000  # tolerated clock skew


def happened_at(op: ObservedOp) -> str:
    """The end of *op*, RFC 3339; if the sender's clock is ahead of ours, the time of arrival.

    A failure dated next year would otherwise keep its incident from ever being resolved.
    """
    taken = taken_ms(op)
    if taken is None:
        return op.timestamp
    limit = rfc3339_ms((taken + _SKEW_MS) * 1_000_000)
    return rfc3339_ms(taken * 1_000_000) if is_earlier(limit, op.timestamp) else op.timestamp


def taken_ms(op: ObservedOp) -> int | None:
    """When *op* arrived, ms since the Unix epoch, read from its id (UUID version 7); None for any other id."""
    op_id = op.op_id or ""
    if len(op_id) != 36 or op_id[14] != _UUID7:
        return None
    try:
        return int(op_id[:8] + op_id[9:13], 16)
    except ValueError:
        return None


def is_earlier(one: str, other: str) -> bool:
    """Whether the time *one* is before *other*; texts that are not times are compared as texts."""
    if len(one) == len(other) and one.endswith("Z") and other.endswith("Z"):
        return one < other
    try:
        return _instant(one) < _instant(other)
    except ValueError:
        return one < other


def seconds(timestamp: str) -> float | None:
    """*timestamp* as seconds since the Unix epoch; None if it is not a time."""
    try:
        return _instant(timestamp).timestamp()
    except (ValueError, OverflowError):
        return None


def _instant(timestamp: str) -> datetime:
    stamp = datetime.fromisoformat(timestamp)
    return stamp if stamp.tzinfo is not None else stamp.replace(tzinfo=UTC)
