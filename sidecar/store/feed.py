"""The live feed (`/ops/stream`): sends every settled op to all watchers. A slow watcher loses its oldest, counted."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from sidecar.errors import OverloadedError
from sidecar.model import ObservedOp
from sidecar.store.ring import op_bytes

_DEPTH = 1000
_MOST_BYTES = 4 * 2**20  # bound of one watcher's queue


class Subscription:
    """One watcher's queue, bounded in ops and bytes. `missed` counts ops dropped because it was too slow."""

    def __init__(self, wanted: Callable[[ObservedOp], bool]) -> None:
        self._wanted = wanted
        self._queue: deque[tuple[ObservedOp, int]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self._closed = False
        self.missed = 0

    def offer(self, op: ObservedOp, size: int) -> None:
        """Queue *op*, of about *size* bytes, if it is wanted; a full queue drops its oldest. Never blocks."""
        if self._wanted(op):
            self._queue.append((op, size))
            self._bytes += size
            while len(self._queue) > _DEPTH or (self._bytes > _MOST_BYTES and len(self._queue) > 1):
                self._bytes -= self._queue.popleft()[1]
                self.missed += 1
            self._arrived.set()

    def close(self) -> None:
        """End the iteration once the queue is empty."""
        self._closed = True
        self._arrived.set()

    async def batches(self, idle_s: float) -> AsyncIterator[list[ObservedOp]]:
        """Yield what has arrived, as soon as something has; an empty list after *idle_s* seconds without ops."""
        while True:
            if not self._queue and not self._closed:
                try:
                    async with asyncio.timeout(idle_s):
                        await self._arrived.wait()
                except TimeoutError:
                    pass
            self._arrived.clear()
            batch = [op for op, _ in self._queue]
            self._queue.clear()
            self._bytes = 0
            if not batch and self._closed:
                return
            yield batch


class OpFeed:
    """Fans settled ops out to at most *most* watchers. Used on the event loop's thread only."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._watchers: set[Subscription] = set()
        self._missed_by_gone = 0
        self._closed = False

    @contextmanager
    def watch(self, wanted: Callable[[ObservedOp], bool]) -> Iterator[Subscription]:
        """Subscribe to the ops that *wanted* accepts, for the length of the block. Raises OverloadedError."""
        if len(self._watchers) >= self._most:
            raise OverloadedError(
                "no room for another watcher", f"{self._most} are connected", "Close one, or try again later"
            )
        watcher = Subscription(wanted)
        if self._closed:
            watcher.close()
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            self._missed_by_gone += watcher.missed

    def consume(self, op: ObservedOp) -> None:
        """Offer *op* to every watcher."""
        if self._watchers:
            size = op_bytes(op)
            for watcher in self._watchers:
                watcher.offer(op, size)

    def close(self) -> None:
        """End all subscriptions."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()

    @property
    def watchers(self) -> int:
        """The number of connected watchers."""
        return len(self._watchers)

    @property
    def missed(self) -> int:
        """Ops that watchers lost because they were too slow."""
        return self._missed_by_gone + sum(watcher.missed for watcher in self._watchers)
