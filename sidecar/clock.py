"""The real clock. Tests pass their own (`protocols.Clock`), so that they need not wait."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - naive on purpose: isoformat then writes no offset, and Z is added


class SystemClock:
    """Wall clock for timestamps, monotonic clock for intervals and deadlines."""

    def time_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Seconds, from an arbitrary start."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*; other tasks run meanwhile."""
        await asyncio.sleep(seconds)


def rfc3339_ms(ns: int) -> str:
    """*ns* since the Unix epoch as RFC 3339 UTC text with milliseconds, rounded down.

    Source: RFC 3339 section 5.6; the form of JavaScript's `Date.toISOString`, which existing callers send.
    """
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000_000:03d}Z"


@lru_cache(maxsize=16)  # most timestamps are of the last few seconds
def _second(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()
