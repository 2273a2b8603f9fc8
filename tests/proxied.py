"""A raw HTTP/1.1 gateway and client, with a parser of their own, and an observer whose proxy runs between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.pipeline.observer import Observer
from tests.observers import observer

Pairs = list[tuple[str, str]]

TRACING = {"traceparent", "tracestate", "baggage"}
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"}


class Message(NamedTuple):
    """A request or response as received; *first* is the start line, *body* has its transfer coding removed."""

    first: str
    headers: Pairs
    body: bytes
    trailers: Pairs
    whole: bool = True

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def end_to_end(self) -> Pairs:
        """The headers that must be equal with and without the proxy, sorted: order does not matter."""
        gone = HOP_BY_HOP | TRACING | {"host"}
        return sorted(
            (k, v) for k, v in self.headers if k.lower() not in gone and not k.lower().startswith("x-observer-")
        )


async def read_message(
    reader: asyncio.StreamReader, *, bodiless: bool = False, response: bool = False
) -> Message | None:
    """Read the next message; None at the end of the stream. *bodiless*: it is a response to HEAD."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    headers = [_pair(line) for line in head[1:] if line]
    values = {name.lower(): value for name, value in headers}
    trailers: Pairs = []
    body, whole = b"", True
    try:
        if bodiless or (response and head[0].split(" ")[1] in ("100", "103", "204", "304")):
            pass
        elif values.get("transfer-encoding") == "chunked":
            async for piece in _chunks(reader, trailers):
                body += piece
        elif "content-length" in values:
            body = await reader.readexactly(int(values["content-length"]))
        elif response:
            body = await reader.read()
    except (asyncio.IncompleteReadError, ConnectionError):
        whole = False
    return Message(head[0], headers, body, trailers, whole)


async def _chunks(reader: asyncio.StreamReader, trailers: Pairs) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        yield await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
        trailers.append(_pair(line.decode("latin-1").removesuffix("\r\n")))


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


Answering = Callable[[Message, asyncio.StreamWriter], Awaitable[bool]]
"""Writes a response; returns whether the connection stays open."""


def answer(data: bytes, *, keep: bool = True) -> Answering:
    """Always respond with the bytes *data*, unchanged."""

    async def write(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        return keep

    return write


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class RawGateway:
    """Keeps the requests in `asked` and responds by `answering`. `connections` counts accepted connections."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.answering: Answering = answer(OK)
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (message := await read_message(reader)) is not None:
                self.asked.append(message)
                if not await self.answering(message, writer):
                    break
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()


@asynccontextmanager
async def raw_gateway() -> AsyncIterator[RawGateway]:
    """A running `RawGateway` on a free port."""
    gateway = RawGateway()
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0, limit=2**20)
    gateway.port = server.sockets[0].getsockname()[1]
    try:
        yield gateway
    finally:
        server.close()
        gateway.close()
        await server.wait_closed()


@asynccontextmanager
async def proxied(tmp_path: Path, gateway_url: str, **env: Any) -> AsyncIterator[Observer]:
    """A running observer whose proxy forwards to *gateway_url*; see `proxy_port`."""
    async with observer(tmp_path, GATEWAY_URL=gateway_url, **{"OBSERVER_PROXY_PORT": "0", **env}) as running:
        yield running


def proxy_port(running: Observer) -> int:
    """The port on which its proxy listens."""
    assert running.proxy is not None
    return running.proxy.port


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to *port*, closed at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(port: int, request: bytes, *, bodiless: bool = False) -> Message:
    """Send *request* over a new connection; return the final response."""
    async with connected(port) as (reader, writer):
        writer.write(request)
        async with asyncio.timeout(120):
            while True:
                message = await read_message(reader, bodiless=bodiless, response=True)
                assert message is not None, "hung up without an answer"
                if not message.first.startswith("HTTP/1.1 1"):
                    return message


def request(method: str = "GET", target: str = "/x", headers: Pairs | None = None, body: bytes | None = None) -> bytes:
    """A request's bytes, with Host, and Content-Length where there is a *body*."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers or []]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
