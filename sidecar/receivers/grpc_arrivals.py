"""Room for gRPC messages while they arrive, for `grpc_guard`: how large one is shows only once it is in memory.

Each may be the largest that the transport takes, so what is counted is messages, not bytes. They are not part of the
budget of bytes in flight: calls on which nothing arrives would fill it, and close the other doors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from sidecar.errors import OverloadedError

MAX_MESSAGE_BYTES: Final = 4 * 2**20
"""Of a message as it is sent: gRPC's own default, and that of the Collector's receiver."""
_MOST_WAITING: Final = 128  # calls; the transport holds up to 64 KiB of each
_PATIENCE_S: Final = 2.0  # with a message that arrives, while others wait


class Arrivals:
    """Room for *messages* at a time, and as much for each of *streams*, which may be silent for hours.

    A message has *timeout_s* to arrive, and two seconds where others wait for its room.
    """

    def __init__(self, messages: int, streams: int, timeout_s: float) -> None:
        self._free = asyncio.Semaphore(messages)
        self._arriving: dict[asyncio.Timeout, float] = {}  # → when it began to
        self._waiting = 0
        self._most_streams = streams
        self._timeout_s = timeout_s
        self.streams = 0
        self.refused = 0

    @asynccontextmanager
    async def message(self) -> AsyncIterator[None]:
        """Room for one message, in turn; the block that reads it is given up when late. Raises OverloadedError."""
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                await self._enter(deadline)
                try:
                    yield
                finally:
                    del self._arriving[deadline]
                    self._free.release()
        except TimeoutError as exc:
            raise self._refusal("the message came too late", "it, or those before it, took too long") from exc

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Room for whatever message of a stream arrives, for as long as it is open. Raises OverloadedError."""
        if self.streams >= self._most_streams:
            raise self._refusal("too many streams are open", f"there is room for {self._most_streams}")
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def _enter(self, deadline: asyncio.Timeout) -> None:
        if self._free.locked():
            if self._waiting >= _MOST_WAITING:
                raise self._refusal("too many messages arrive at once", f"{_MOST_WAITING} calls wait for their turn")
            self._waiting += 1
            self._hurry()
            try:
                await self._free.acquire()
            finally:
                self._waiting -= 1
        else:
            await self._free.acquire()
        now = asyncio.get_running_loop().time()
        self._arriving[deadline] = now
        deadline.reschedule(now + self._timeout_s)
        if self._waiting:
            self._hurry()

    def _hurry(self) -> None:
        """Somebody waits: those that arrive have less time."""
        patience_s = min(_PATIENCE_S, self._timeout_s)
        for deadline, began in self._arriving.items():
            if not deadline.expired():
                deadline.reschedule(began + patience_s)

    def _refusal(self, what: str, why: str) -> OverloadedError:
        self.refused += 1
        return OverloadedError(what, why, "Send it again later")
