"""The seams between rooms: one to three methods each, only where two implementations exist."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from sidecar.model import ObservedOp, SpanRef


class Clock(Protocol):
    """Time as the observer sees it. Real one: `clock.SystemClock`."""

    def time_ns(self) -> int:
        """Wall clock, ns since the Unix epoch: for timestamps only."""
        ...

    def monotonic(self) -> float:
        """Seconds: for intervals and deadlines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, letting other tasks run."""
        ...


class OpConsumer(Protocol):
    """Whatever ops flow into: ring, live feed, analysis. One method is the whole contract."""

    def consume(self, op: ObservedOp) -> None:
        """Take one op that is settled. Must not block."""
        ...


class Receipt(Protocol):
    """The promise that one op is in the journal."""

    op: ObservedOp

    async def wait(self) -> None:
        """Return once the op is in the file. Raises `JournalError` if it is not and will not be."""
        ...


class Recorder(Protocol):
    """Makes a finished op a span, and so an op in ring, journal and analysis. Real one: `spans.recorder`."""

    def record(
        self, op: ObservedOp, *, traceparent: str = "", tracestate: str = "", linked: Sequence[SpanRef] = ()
    ) -> Receipt | None:
        """The receipt of *op*, or None if a bound was reached and it was not taken."""
        ...


class Stage(Protocol):
    """A room with something to open and close. `stop` is idempotent and safe before `start`."""

    name: str

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Open; loops go into *tasks*."""
        ...

    async def stop(self) -> None:
        """Flush and close."""
        ...


class JournalFile(Protocol):
    """The file under a journal; tests put one here that fails or stalls.

    *size* is its length in bytes, whole records only. All methods raise OSError.
    """

    size: int

    def append(self, data: bytes) -> None:
        """Write *data* whole at the end, or leave the file as it was."""
        ...

    def sync(self) -> None:
        """Force what was appended to the device."""
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


class TextModel(Protocol):
    """A model that turns a prompt into text."""

    async def generate(self, prompt: str) -> str:
        """The answer, not empty. Raises `ObserverError` when there is none to use."""
        ...


class GatewayLog(Protocol):
    """Where the observer tells the gateway what it learnt: `POST {GATEWAY_URL}/log`."""

    async def post(self, key: str, entry: dict[str, str]) -> None:
        """Send *entry*; *key* is the same for the same content. Raises `RetryableError`."""
        ...


class DecisionLog(Protocol):
    """The journal of what the observer decided (`decisions.jsonl`)."""

    async def decide(self, kind: str, body: object, follows: str | None) -> None:
        """Write one decision and wait until it is in the file. Raises `JournalError`."""
        ...
