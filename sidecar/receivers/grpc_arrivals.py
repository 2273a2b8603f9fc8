"""Admission of gRPC messages while they arrive, for `grpc_guard`: their size is known only once they are in memory.

Any message may be as large as the transport allows, so messages are counted, not bytes. They are not charged to the
budget of bytes in flight, because idle calls would then fill it and block the other doors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from sidecar.errors import OverloadedError

MAX_MESSAGE_BYTES: Final = 4 * 2**20
"""Bound of a message as sent: gRPC's own default, and that of the Collector's receiver."""
_MOST_WAITING: Final = 128  # calls; the transport buffers up to 64 KiB of each
_PATIENCE_S: Final = 2.0  # time for a message to arrive while others wait


class Arrivals:
    """Admits *messages* at a time, and besides them *streams*, which may be silent for hours.

    A message has *timeout_s* to arrive, but only two seconds while others wait for a place.
    """

    def __init__(self, messages: int, streams: int, timeout_s: float) -> None:
        self._free = asyncio.Semaphore(messages)
        self._arriving: dict[asyncio.Timeout, float] = {}  # → when it began to arrive
        self._waiting = 0
        self._most_streams = streams
        self._timeout_s = timeout_s
        self.streams = 0
        self.refused = 0

    @asynccontextmanager
    async def message(self) -> AsyncIterator[None]:
        """Wait for a place and read one message in the block, which is cancelled if late. Raises OverloadedError."""
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
        """Admit all messages of one stream while it is open. Raises OverloadedError."""
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
        """Shorten the deadlines of arriving messages, because others wait."""
        patience_s = min(_PATIENCE_S, self._timeout_s)
        for deadline, began in self._arriving.items():
            if not deadline.expired():
                deadline.reschedule(began + patience_s)

    def _refusal(self, what: str, why: str) -> OverloadedError:
        self.refused += 1
        return OverloadedError(what, why, "Send it again later")
