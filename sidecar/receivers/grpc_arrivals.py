"""Admission of gRPC messages while they arrive, for `grpc_guard`: their size is known only once they are in memory.

Any message may be as large as the transport allows, so messages are counted, not bytes. They are not charged to the
budget of bytes in flight, because idle calls would then fill it and block the other doors.

A call on which nothing comes cannot be told from one whose message is on its way. So its connection is judged by what
its calls brought before, and its time is short while others wait.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Final

from sidecar.errors import OverloadedError

MAX_MESSAGE_BYTES: Final = 4 * 2**20
"""Bound of a message as sent: gRPC's own default, and that of the Collector's receiver."""
_MOST_WAITING: Final = 128  # calls; the transport buffers up to 64 KiB of each
_MOST_PEERS: Final = 1024  # connections whose last call is remembered
_PATIENCE_S: Final = 1.0  # time for a message to arrive while others wait
_SHORT_PATIENCE_S: Final = 0.25  # the same once one of them has waited for as long as that


@dataclass(eq=False, slots=True)
class _Call:
    """A call that waits for its place or has one. *peer* is its connection."""

    peer: str
    deadline: asyncio.Timeout
    turn: asyncio.Future[None]
    since: float  # the loop's time when it came, then when it was admitted


class Arrivals:
    """Admits *messages* at a time, and besides them *streams*, which may be silent for hours.

    A message has *timeout_s* to arrive, but a second or less while others wait for a place. First come calls of
    connections that have brought a message, and one place is kept for them; last those of connections whose last call
    brought none in time. Among these, connections that have fewer places come first.
    """

    def __init__(self, messages: int, streams: int, timeout_s: float) -> None:
        self._messages = messages
        self._kept = min(1, messages - 1)
        self._arriving: list[_Call] = []
        self._waiting: list[_Call] = []
        self._places: Counter[str] = Counter()  # by connection
        self._silent: dict[str, bool] = {}  # connection → whether its last call brought no message; last used last
        self._most_streams = streams
        self._timeout_s = timeout_s
        self.streams = 0
        self.refused = 0

    @asynccontextmanager
    async def message(self, peer: str) -> AsyncIterator[None]:
        """Wait for a place and read one message of *peer* in the block; if late, it is cancelled: OverloadedError."""
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                loop = asyncio.get_running_loop()
                call = _Call(peer, deadline, loop.create_future(), loop.time())
                await self._enter(call)
                silent = True
                try:
                    yield
                    silent = False
                finally:
                    self._remember(peer, silent=silent)
                    self._free(call)
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

    async def _enter(self, call: _Call) -> None:
        self._waiting.append(call)
        self._admit()
        if call.turn.done():
            return
        if len(self._waiting) > _MOST_WAITING:
            self._refuse_last()
        self._hurry()
        try:
            await call.turn
        except asyncio.CancelledError:
            if call in self._arriving:  # admitted in the moment in which it was cancelled
                self._free(call)
            raise
        finally:
            if call in self._waiting:
                self._waiting.remove(call)

    def _free(self, call: _Call) -> None:
        self._arriving.remove(call)
        self._places[call.peer] -= 1
        if not self._places[call.peer]:
            del self._places[call.peer]
        self._admit()

    def _admit(self) -> None:
        """Give free places to those that wait."""
        now = asyncio.get_running_loop().time()
        while (free := self._messages - len(self._arriving)) and (waiting := self._still_waiting()):
            call = min(waiting, key=self._rank)  # the first of equals, which has waited longest
            if free <= self._kept and self._silent.get(call.peer, True):
                return
            self._waiting.remove(call)
            self._arriving.append(call)
            self._places[call.peer] += 1
            call.since = now
            call.deadline.reschedule(now + self._timeout_s)
            call.turn.set_result(None)
            self._hurry()

    def _refuse_last(self) -> None:
        last = max(reversed(self._still_waiting()), key=self._rank)
        self._waiting.remove(last)
        why = f"{_MOST_WAITING} calls wait for their turn"
        last.turn.set_exception(self._refusal("too many messages arrive at once", why))

    def _still_waiting(self) -> list[_Call]:
        """Those that wait and were not cancelled in this turn of the loop."""
        return [call for call in self._waiting if not call.turn.done()]

    def _rank(self, call: _Call) -> tuple[int, int]:
        silent = self._silent.get(call.peer)
        return (1 if silent is None else 2 * silent), self._places[call.peer]

    def _remember(self, peer: str, *, silent: bool) -> None:
        self._silent.pop(peer, None)
        self._silent[peer] = silent
        if len(self._silent) > _MOST_PEERS:
            del self._silent[next(iter(self._silent))]

    def _hurry(self) -> None:
        """Shorten the deadlines of arriving messages, if others wait."""
        if not self._waiting:
            return
        waited_s = asyncio.get_running_loop().time() - self._waiting[0].since
        patience_s = _PATIENCE_S if waited_s < _PATIENCE_S else _SHORT_PATIENCE_S
        for call in self._arriving:
            if not call.deadline.expired():
                call.deadline.reschedule(call.since + min(patience_s, self._timeout_s))

    def _refusal(self, what: str, why: str) -> OverloadedError:
        self.refused += 1
        return OverloadedError(what, why, "Send it again later")
