"""Leaves a service that keeps failing alone for a while."""

from __future__ import annotations

from enum import Enum

from sidecar.protocols import Clock


class Circuit(Enum):
    """Closed: calls go through. Open: none do. Half open: one may try."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after *most_failures* in a row; lets one call try when *rest_s* seconds have passed."""

    def __init__(self, clock: Clock, most_failures: int = 3, rest_s: float = 60.0) -> None:
        self._clock = clock
        self._most_failures = most_failures
        self._rest_s = rest_s
        self._failures = 0
        self._opened_at: float | None = None
        self.opened = 0  # times

    @property
    def state(self) -> Circuit:
        """Where it stands now."""
        if self._opened_at is None:
            return Circuit.CLOSED
        rested = self._clock.monotonic() - self._opened_at >= self._rest_s
        return Circuit.HALF_OPEN if rested else Circuit.OPEN

    def succeeded(self) -> None:
        """A call went well: closed."""
        self._failures = 0
        self._opened_at = None

    def failed(self) -> None:
        """A call failed: opens at the bound, and again when the one that tried fails."""
        self._failures += 1
        if self._failures >= self._most_failures:
            self._opened_at = self._clock.monotonic()
            self.opened += 1
