"""Agents that hang up, or stop reading: noticed, and no connection stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import pytest

from sidecar.pipeline.observer import Observer
from tests.observers import settled
from tests.proxied import (
    Message,
    answer,
    connected,
    proxied,
    proxy_port,
    raw_gateway,
    request,
)


async def gone(running: Observer) -> None:
    """Until no agent's connection is left."""
    assert running.proxy is not None
    async with asyncio.timeout(120):
        await running.proxy.agents.quiet()


@pytest.mark.parametrize("keep", [True, False])
async def test_an_agent_that_never_reads_is_given_up(tmp_path: Path, keep: bool) -> None:
    """The answer is cut by a time-out, or whole and the last one: either way socket and buffer are freed."""
    asked = asyncio.Event()

    async def flood(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % 2**25 + b"x" * 2**25)
        await writer.drain()
        return keep

    waits = {"OBSERVER_BODY_TIMEOUT": "0.3", "OBSERVER_PROXY_IDLE_TIMEOUT": "0.6"}
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, **waits) as running:
        gateway.answering = flood
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy_port(running), limit=1)
        writer.write(request())
        await asked.wait()
        await gone(running)
        await settled(running, 1)
        writer.transport.abort()
        assert reader.at_eof() is False


async def test_an_agent_that_reads_slowly_gets_all_of_the_last_answer(tmp_path: Path) -> None:
    """That the connection closes behind it cuts nothing off, as long as the agent goes on reading."""
    size = 2**24
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, OBSERVER_BODY_TIMEOUT="5") as running:
        gateway.answering = answer(reply)
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(request("GET", "/x", [("Connection", "close")]))
            assert b"Connection: close" in await reader.readuntil(b"\r\n\r\n")
            left = size
            while left and (piece := await reader.read(2**16)):
                left -= len(piece)
            assert left == 0


async def test_an_agent_that_sent_ahead_and_hangs_up_is_noticed(tmp_path: Path) -> None:
    """Though nothing of what it sent ahead is read: the call under way is cancelled, the others are none."""
    begun = asyncio.Event()

    async def silent(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        begun.set()
        await asyncio.Event().wait()
        return False

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running, asyncio.timeout(120):
        gateway.answering = silent
        async with connected(proxy_port(running)) as (_reader, writer):
            writer.write(request() * 20)
            await begun.wait()
        await gone(running)
        await settled(running, 1)
        assert [op.error_type for op in running.ring.ops()] == ["CancelledError"]


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
async def test_an_agent_that_hangs_up_while_it_is_not_read_is_noticed(tmp_path: Path, reset: bool) -> None:
    """The gateway does not read, so nothing of the agent is read either; still the call to the gateway is ended."""
    begun, lost = asyncio.Event(), asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # no public way before the first read
        begun.set()
        await over.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]  # as above
        with contextlib.suppress(ConnectionError):
            while await reader.read(2**20):
                pass
        lost.set()
        writer.transport.abort()

    over = asyncio.Event()
    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxied(tmp_path, url) as running, asyncio.timeout(120):
        async with connected(proxy_port(running)) as (_reader, writer):
            writer.transport.set_write_buffer_limits(0)
            writer.write(request("POST", "/x", [("Content-Length", str(2**40))]))
            await begun.wait()
            assert running.proxy is not None
            (connection,) = running.proxy.agents.connections
            while not connection.read_paused:
                writer.write(b"x" * 2**12)  # so little always fits into the kernel's buffer
                await writer.drain()
                await asyncio.sleep(0)
            if reset:
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await gone(running)
        await settled(running, 1)
        assert [op.error_type for op in running.ring.ops()] == ["CancelledError"]
        over.set()
        await lost.wait()
    server.close()
    await server.wait_closed()
