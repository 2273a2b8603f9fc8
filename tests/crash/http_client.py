"""A minimal HTTP/1.1 client over one keep-alive connection, fast enough for thousands of requests a second."""

from __future__ import annotations

import asyncio


class Broken(Exception):  # noqa: N818 - an outcome that is expected here
    """The connection ended before the response was complete."""


class HttpConnection:
    """One connection to 127.0.0.1:*port*, opened when needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def request(self, method: str, path: str, body: bytes = b"", headers: str = "") -> tuple[int, bytes]:
        """Send a request; return status and body of the response. Raises Broken."""
        await self.send(method, path, body, headers)
        assert self._reader is not None
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            answer = await self._reader.readexactly(_content_length(head))
        except (OSError, asyncio.IncompleteReadError) as exc:
            self.drop()
            raise Broken from exc
        if b"\r\nconnection: close" in head.lower():
            self.drop()
        return int(head[9:12]), answer

    async def send(self, method: str, path: str, body: bytes, headers: str = "") -> None:
        """Send a request without waiting for the response. Raises Broken."""
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
            head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
            self._writer.write(head.encode() + body)
            await self._writer.drain()
        except OSError as exc:
            self.drop()
            raise Broken from exc

    def drop(self) -> None:
        """Close the connection at once; outstanding responses are lost."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


def _content_length(head: bytes) -> int:
    for header in head.split(b"\r\n"):
        if header.lower().startswith(b"content-length:"):
            return int(header.partition(b":")[2])
    return 0
