"""A real, small HTTP/1.1 server on 127.0.0.1:0 that answers as a test says, also wrongly or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple


class Request(NamedTuple):
    """What a client sent; header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class HttpStub:
    """Keeps the requests and answers with *status* and *body*; None: never answers."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.status = 200
        self.body: bytes | None = b"{}"
        self.held_back = 0  # bytes of the body that are announced, and never come
        self.asked = asyncio.Event()
        self.url = ""
        self._handlers: set[asyncio.Task[Any]] = set()

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[HttpStub]:
        stub = cls()
        server = await asyncio.start_server(stub._serve, "127.0.0.1", 0)
        stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield stub
        finally:
            server.close()
            for handler in stub._handlers:
                handler.cancel()
            await asyncio.gather(*stub._handlers, return_exceptions=True)
            await server.wait_closed()

    def answers(self, body: object, status: int = 200) -> None:
        self.status, self.body = status, json.dumps(body).encode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client disconnected
        finally:
            writer.close()
            self._handlers.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Request(head[0], headers, body))
        self.asked.set()
        if self.body is None:
            await asyncio.Event().wait()
            return
        length = str(len(self.body) + self.held_back).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %b\r\nConnection: close\r\n\r\n" % (self.status, length))
        writer.write(self.body)
        await writer.drain()
        if self.held_back:
            await reader.read()  # until the client goes
