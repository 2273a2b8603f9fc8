"""A transport that sends everything written within one turn of the event loop in one piece.

uvicorn writes a response's head and body separately, and uvloop sends each write at once: two system calls, two packets
and two wake-ups of the client per response. Holding the head until the body is written halves that.
"""

from __future__ import annotations

import asyncio
from typing import Any

_MOST_HELD = 64 * 1024


class CorkedTransport:
    """Wraps *transport*; passes on everything except writing and closing."""

    __slots__ = ("_held", "_held_bytes", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._held_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether `close` was called or the connection is lost."""
        return self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Send *data* together with everything else written before the loop's next turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > _MOST_HELD:  # so that the transport's flow control sees large responses early
            self._flush()

    def close(self) -> None:
        """Send what is held, then close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held, self._held, self._held_bytes = self._held, [], 0
        if held and not self._transport.is_closing():  # if the client has hung up, uvloop would raise
            self._transport.write(b"".join(held))
