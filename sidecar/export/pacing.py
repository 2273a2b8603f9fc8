"""When to try again: for each post its own back-off, and one for whoever takes them, so that it is not stormed.

A post that alone is refused costs only itself; several in a row, or an answer with `Retry-After`, hold all of them.
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
    """Remembers which posts failed since one was taken. *random* gives a number from 0 to below 1."""

    def __init__(self, clock: Clock, random: Callable[[], float]) -> None:
        self._clock = clock
        self._random = random
        self._held_until = 0.0
        self._failing: set[int] = set()  # posts that failed and have not been taken
        self._in_a_row: set[int] = set()
        self._failures_in_a_row = 0

    @property
    def held_s(self) -> float:
        """For how long nothing should be sent, unless a person wants it; 0 or less: for no time."""
        return self._held_until - self._clock.monotonic()

    def failed(self, number: int, attempts: int, retry_after_s: float | None, error: str) -> float:
        """Post *number* failed for the *attempts*-th time: in how many seconds it is due again.

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
        """Post *number* was taken: whether whoever takes them is back after refusing."""
        self._answered()
        if number not in self._failing:  # the others may be poison: their own back-off is enough
            return False
        self._failing.clear()
        log.info("outbox.recovered")
        return True

    def refused(self, number: int) -> None:
        """Post *number* was refused for good, by someone who is there."""
        self._answered()
        self.given_up(number)

    def given_up(self, number: int) -> None:
        """Post *number* is not tried again."""
        self._failing.discard(number)

    def _answered(self) -> None:
        self._held_until = 0.0
        self._in_a_row.clear()
        self._failures_in_a_row = 0

    def _hold(self, seconds: float) -> None:
        self._held_until = max(self._held_until, self._clock.monotonic() + seconds)

    def _jittered(self, attempts: int) -> float:
        return self._random() * min(CAP_S, BASE_S * 2.0 ** min(attempts - 1, 30))
