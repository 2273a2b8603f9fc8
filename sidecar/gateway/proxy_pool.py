"""The pool of keep-alive connections to the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable

from sidecar.gateway.proxy_buffer import ReadBuffer
from sidecar.gateway.proxy_upstream import UpstreamConnection

_MOST_IDLE = 100
_IDLE_S = 4.0  # common servers close idle connections after 5 s: a request must not race with that


class UpstreamPool:
    """Connections to *host*:*port*. The most recently used idle one is taken first."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: bool,
        connect_timeout_s: float,
        now: Callable[[], float],
        buffer: ReadBuffer,
    ) -> None:
        self.buffer = buffer  # shared by all reads
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._now = now
        self._context: ssl.SSLContext | None = None
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def open(self) -> None:
        """Create the TLS context if the gateway uses TLS."""
        self._context = ssl.create_default_context() if self._tls else None

    def take(self) -> UpstreamConnection | None:
        """An idle connection, or None."""
        while self._idle:
            connection = self._idle.pop()
            fresh = self._now() - connection.idle_since < _IDLE_S
            if fresh and connection.transport is not None and not connection.transport.is_closing():
                connection.reused = True
                return connection
            connection.abort()
        return None

    async def connect(self) -> UpstreamConnection:
        """A new connection. Raises OSError, TimeoutError."""
        connection = UpstreamConnection(self)
        loop = asyncio.get_running_loop()
        name = self._host if self._context is not None else None
        async with asyncio.timeout(self._connect_timeout_s):
            await loop.create_connection(
                lambda: connection, self._host, self._port, ssl=self._context, server_hostname=name
            )
        return connection

    def opened(self, connection: UpstreamConnection) -> None:
        """Register the new *connection*."""
        self._open.add(connection)

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep *connection* for the next exchange, or close it if enough are idle."""
        connection.idle_since = self._now()
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(connection)
        else:
            connection.abort()

    def forget(self, connection: UpstreamConnection) -> None:
        """Remove *connection*, which is closed."""
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def sweep(self) -> None:
        """Close connections that have been idle for too long."""
        limit = self._now() - _IDLE_S
        for connection in [each for each in self._idle if each.idle_since < limit]:
            connection.abort()

    def close(self) -> None:
        """Close all connections at once."""
        for connection in list(self._open):
            connection.abort()
