"""Hand-written stand-ins for the seams: they keep lists, and do what they are told."""

from __future__ import annotations

import asyncio

from sidecar.model import ObservedOp


class ManualClock:
    """Time moves when a test says so; `sleep` returns when it has moved far enough."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = start_ns
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def time_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._now_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.monotonic() + seconds, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Move on, waking who is due, and let them run."""
        self._now_ns += int(seconds * 1e9)
        due = [waiter for at, waiter in self._sleepers if at <= self.monotonic()]
        self._sleepers = [(at, waiter) for at, waiter in self._sleepers if at > self.monotonic()]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
        for _ in range(20):
            await asyncio.sleep(0)


class KeptOps:
    """An `OpConsumer` that keeps what it is given."""

    def __init__(self) -> None:
        self.ops: list[ObservedOp] = []

    def consume(self, op: ObservedOp) -> None:
        self.ops.append(op)
