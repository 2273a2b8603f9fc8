"""Parses the `Retry-After` header, for all our clients. Pure. Source: RFC 9110, 10.2.3."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_MAX_DIGITS: Final = 9


def asked_seconds(retry_after: str, now_ns: int) -> float | None:
    """The seconds that *retry_after* asks to wait: a number, or until an HTTP date; None if it is neither.

    *now_ns* is the wall clock, ns since the Unix epoch. The result may be huge or infinite: the caller must bound it.
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
