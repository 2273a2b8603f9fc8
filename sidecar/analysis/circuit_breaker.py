"""A circuit breaker: calls to a service that keeps failing are suspended for a while."""

from __future__ import annotations

from enum import Enum

from sidecar.protocols import Clock


class Circuit(Enum):
    """Closed: calls pass. Open: no calls. Half open: one trial call may be made."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after *most_failures* failures in a row; half open once *rest_s* seconds have passed since then."""

    def __init__(self, clock: Clock, most_failures: int = 3, rest_s: float = 60.0) -> None:
        self._clock = clock
        self._most_failures = most_failures
        self._rest_s = rest_s
        self._failures = 0
        self._opened_at: float | None = None
        self.opened = 0  # how often it opened

    @property
    def state(self) -> Circuit:
        """The present state."""
        if self._opened_at is None:
            return Circuit.CLOSED
        rested = self._clock.monotonic() - self._opened_at >= self._rest_s
        return Circuit.HALF_OPEN if rested else Circuit.OPEN

    def succeeded(self) -> None:
        """Record a successful call: closes the circuit."""
        self._failures = 0
        self._opened_at = None

    def failed(self) -> None:
        """Record a failed call: opens the circuit at the bound, and again when a trial call fails."""
        self._failures += 1
        if self._failures >= self._most_failures:
            self._opened_at = self._clock.monotonic()
            self.opened += 1
