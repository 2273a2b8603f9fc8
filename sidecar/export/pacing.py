"""Retry pacing: a back-off for each post, and a shared one for the receiver, so that it is not flooded.

One failing post delays only itself. Several failing in a row, or a response with `Retry-After`, delay all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from sidecar.protocols import Clock

log = structlog.get_logger(__name__)

BASE_S: Final = 1.0
CAP_S: Final = 300.0
MAX_RETRY_AFTER_S: Final = 3600.0
_SEVERAL: Final = 3


class Pacing:
    """Tracks which posts have failed since the last success. *random* returns a number in [0, 1)."""

    def __init__(self, clock: Clock, random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._held_until = 0.0
        self._failing: set[int] = set()  # posts that failed and were not delivered since
        self._in_a_row: set[int] = set()
        self._failures_in_a_row = 0

    @property
    def held_s(self) -> float:
        """Seconds during which nothing is sent, except what a person asks for; 0 or less: sending is allowed."""
        return self._held_until - self._clock.monotonic()

    def failed(self, number: int, attempts: int, retry_after_s: float | None, error: str) -> float:
        """Record the *attempts*-th failure of post *number*. Returns the seconds until it is due again.

        Source: "Exponential Backoff And Jitter", full jitter; RFC 9110 section 10.2.3 for `Retry-After`.
        """
        if not self._failing:
            log.warning("outbox.refused", error=error)
        self._failing.add(number)
        self._in_a_row.add(number)
        self._failures_in_a_row += 1
        wait_s = self._jittered(attempts)
        if retry_after_s is not None:
            asked_s = min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S)
            self._hold(asked_s)
            return max(asked_s, wait_s)
        if len(self._in_a_row) >= _SEVERAL:
            self._hold(self._jittered(self._failures_in_a_row))
        return wait_s

    def taken(self, number: int) -> bool:
        """Record that post *number* was delivered. Returns whether that ends an outage: it had failed before."""
        self._answered()
        if number not in self._failing:  # the failing posts may be poison: they keep their own back-off
            return False
        self._failing.clear()
        log.info("outbox.recovered")
        return True

    def refused(self, number: int) -> None:
        """Record that post *number* was refused for good. The receiver answered, so the shared hold ends."""
        self._answered()
        self.given_up(number)

    def given_up(self, number: int) -> None:
        """Record that post *number* is not retried any more."""
        self._failing.discard(number)

    def _answered(self) -> None:
        self._held_until = 0.0
        self._in_a_row.clear()
        self._failures_in_a_row = 0

    def _hold(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)

    def _jittered(self, attempts: int) -> float:
        return self._random() * min(CAP_S, BASE_S * 2.0 ** min(attempts - 1, 30))
