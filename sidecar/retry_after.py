"""The `Retry-After` header, as every client of ours reads it. Pure. Source: RFC 9110, 10.2.3."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_MAX_DIGITS: Final = 9


def asked_seconds(retry_after: str, now_ns: int) -> float | None:
    """How long *retry_after* asks to wait: seconds, or until an HTTP date; None if it is neither.

    *now_ns* is the wall clock, ns since the Unix epoch. What asks for more than can be read asks for ever: bound it.
    """
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= _MAX_DIGITS else float("inf")
    try:
        at = parsedate_to_datetime(text)
        at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - now_ns / 1e9)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
