"""Event times for comparing and counting: an op's own timestamp, but never later than its arrival. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sidecar.clock import rfc3339_ms
from sidecar.ids import made_ms
from sidecar.model import ObservedOp

_SKEW_MS: Final = 1000  # tolerated clock skew
_TO_THE_SECOND: Final = len("2026-01-31T08:15:00")


def happened_at(op: ObservedOp) -> str:
    """The end of *op*, RFC 3339; if the sender's clock is ahead of ours, the time of arrival.

    A failure dated next year would otherwise keep its incident from ever being resolved, and a success would resolve
    what nobody has called since.
    """
    taken = made_ms(op.op_id)
    if not taken:
        return op.timestamp
    limit = rfc3339_ms((taken + _SKEW_MS) * 1_000_000)
    return rfc3339_ms(taken * 1_000_000) if is_earlier(limit, op.timestamp) else op.timestamp


def later_of(known: str, op: ObservedOp) -> str:
    """The later of the time *known* and the time at which *op* happened, both RFC 3339 UTC with milliseconds.

    For every op, so it is cheap: *op*'s arrival is looked at only if its time lies in a later second than *known*.
    Within a second, a fast clock does no harm.
    """
    said = op.timestamp
    if said <= known:
        return known
    if said[:_TO_THE_SECOND] == known[:_TO_THE_SECOND]:
        return said
    at = happened_at(op)
    return max(known, at)


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
