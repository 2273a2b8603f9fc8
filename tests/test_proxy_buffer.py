"""Many agents, or a gateway, that do not read: what the proxy holds for each is little, and nothing is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

from sidecar.gateway.proxy_buffer import ReadBuffer
from tests.observers import settled
from tests.proxied import Message, connected, proxied, proxy_port, raw_gateway, read_message, request

_PIECE = b"x" * 2**16
_BODY = 64 * len(_PIECE)  # more than the kernel keeps for an agent
_AGENTS = 80
_WHOLE_READS = 65  # agents for whom a whole read may wait; one more is read for when the 65th stalls
_LESS = 4 * 1024
_MORE = 16 * 1024 + 512  # with a response's head


async def flood(_asked: Message, writer: asyncio.StreamWriter) -> bool:
    """A long body, as fast as it is taken."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % _BODY)
    for _ in range(_BODY // len(_PIECE)):
        writer.write(_PIECE)
        await writer.drain()
    return True


async def asking(port: int, stack: contextlib.ExitStack) -> socket.socket:
    """An agent that has asked, and whose kernel keeps little for it."""
    sock = stack.enter_context(socket.socket())
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, request())
    return sock


async def stalled(buffer: ReadBuffer, count: int) -> None:
    """Return once *count* connections wait for the other end."""
    async with asyncio.timeout(120):
        while buffer.stalled != count:  # noqa: ASYNC110 - the kernel fills up meanwhile
            await asyncio.sleep(0)


def test_a_read_takes_less_while_many_stall() -> None:
    """Of the same bytes, so that what was read stands where it always does."""
    buffer = ReadBuffer()
    whole = buffer.room
    buffer.stalled = _AGENTS
    less = buffer.room
    assert (len(whole), len(less)) == (16 * 1024, _LESS)
    less[:2] = b"ab"
    assert buffer.data[:2] == b"ab"
    buffer.stalled = 0
    assert buffer.room is whole


async def test_agents_that_never_read_hold_little(tmp_path: Path) -> None:
    """One read waits for each, a quarter of one where they are many; when they have left, reads are whole again."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        assert running.proxy is not None
        gateway.answering, buffer = flood, running.proxy.buffer
        with contextlib.ExitStack() as agents:
            for _ in range(_AGENTS):
                await asking(proxy_port(running), agents)
            await stalled(buffer, _AGENTS)
            waiting = [agent.waiting_bytes for agent in running.proxy.agents.connections]
        assert len(waiting) == _AGENTS
        assert max(waiting) <= _MORE
        assert sum(size > _LESS for size in waiting) <= _WHOLE_READS
        await settled(running, _AGENTS)
        assert buffer.stalled == 0


async def test_a_slow_agent_among_many_gets_all(tmp_path: Path) -> None:
    """What is read in smaller pieces arrives whole."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        assert running.proxy is not None
        gateway.answering, running.proxy.buffer.stalled = flood, _AGENTS
        async with connected(proxy_port(running)) as (reader, writer):
            writer.write(request())
            message = await read_message(reader, response=True)
        assert message is not None
        assert len(message.body) == _BODY


async def test_a_gateway_that_stopped_reading_counts_until_it_is_gone(tmp_path: Path) -> None:
    """It hangs up on a body that it did not take: reads do not stay small after that."""
    done = asyncio.Event()

    async def deaf(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
        await done.wait()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxied(tmp_path, f"http://127.0.0.1:{port}") as running:
        assert running.proxy is not None
        async with connected(proxy_port(running)) as (_, writer):
            writer.write(request("POST", "/", [("Content-Type", "text/plain")], bytes(_BODY * 4)))
            await stalled(running.proxy.buffer, 1)
            done.set()
            await settled(running, 1)
        assert running.proxy.buffer.stalled == 0
    server.close()
    await server.wait_closed()
