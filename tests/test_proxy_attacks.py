"""Agents and gateways that mean harm, over real sockets: what they hold of the proxy is bounded, in bytes and time."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from sidecar.gateway.proxied_call import PREFIX_BYTES, TAIL_BYTES, Capture, CaptureBudget
from tests.proxied import (
    OK,
    answer,
    connected,
    exchange,
    proxied,
    proxy_port,
    raw_gateway,
    read_message,
    request,
)

H2C = [("Connection", "Upgrade, HTTP2-Settings, X-Hop"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA"), ("X-Hop", "1")]


async def test_hundreds_of_offers_at_once(tmp_path: Path) -> None:
    """Pipelined offers of HTTP/2 are each passed over; what `Connection` names besides ends here."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(request("POST", "/x", H2C, b'{"a": 1}') * 700)
            for _ in range(700):
                message = await read_message(reader, response=True)
                assert message is not None
                assert message.body == b"{}"
        assert {asked.body for asked in gateway.asked} == {b'{"a": 1}'}
        assert {asked.header("x-hop") for asked in gateway.asked} == {None}
        got = await exchange(proxy_port(running), request("GET", "/x", H2C).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert got.header("connection") == "close"


@pytest.mark.parametrize("reply", [OK, b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n"])
async def test_a_final_answer_to_an_expectation_ends_the_connection(tmp_path: Path, reply: bytes) -> None:
    """Whether the body still comes cannot be known: what follows is neither body nor request."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(reply)
        seen.append(await reader.read())
        writer.close()

    seen: list[bytes] = []
    server = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxied(tmp_path, url) as running, connected(proxy_port(running)) as (reader, writer):
        async with asyncio.timeout(120):
            writer.write(request("POST", "/x", [("Expect", "100-continue"), ("Content-Length", "200")]))
            message = await read_message(reader, response=True)
            assert message is not None
            assert message.header("connection") == "close"
            writer.write(request("GET", "/smuggled"))
            assert await reader.read() == b""
    assert [b"smuggled" in each for each in seen] == [False, False]
    server.close()
    await server.wait_closed()


async def test_an_expectation_that_is_met_keeps_the_connection(tmp_path: Path) -> None:
    """100, then the body, then the answer, and the next call on the same connection."""

    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await reader.readexactly(4)
            writer.write(OK)
        writer.close()

    server = await asyncio.start_server(patient, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxied(tmp_path, url) as running, connected(proxy_port(running)) as (reader, writer):
        for _ in range(2):
            async with asyncio.timeout(120):
                writer.write(request("POST", "/x", [("Expect", "100-continue"), ("Content-Length", "4")]))
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b"body")
                message = await read_message(reader, response=True)
                assert message is not None
                assert (message.body, message.header("connection")) == (b"{}", None)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("size", [1, 3, 4096])
def test_captures_take_what_they_count(size: int) -> None:
    """In the tiniest chunks too: beginning and end together, no more than the budget knows of."""
    budget = CaptureBudget(10**9)
    capture = Capture(budget)
    for _ in range((PREFIX_BYTES + 3 * TAIL_BYTES) // size):
        capture.add(b"x" * size)
    assert capture._end is not None
    held = sys.getsizeof(capture._beginning) + sys.getsizeof(capture._end)
    assert held <= budget.used * 1.2
    capture.release()
    assert budget.used == 0


def test_the_end_of_a_body_is_within_the_budget_too() -> None:
    """Where the beginning fits and the end does not, only the end is not kept."""
    budget = CaptureBudget(PREFIX_BYTES + TAIL_BYTES)
    capture = Capture(budget)
    capture.add(b"x" * (PREFIX_BYTES + 10))
    assert (len(capture.prefix), capture.tail, capture.whole, budget.refused) == (PREFIX_BYTES, b"", False, 1)


async def test_a_request_that_waits_in_tiny_chunks_is_small(tmp_path: Path) -> None:
    """Until the gateway is reached what came is one piece, and all of it arrives."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        body = b"".join(b"1\r\n%c\r\n" % (97 + n % 26) for n in range(20_000)) + b"0\r\n\r\n"
        got = await exchange(proxy_port(running), request("POST", "/x", [("Transfer-Encoding", "chunked")]) + body)
        assert got.body == b"{}"
        assert gateway.asked[0].body == bytes(97 + n % 26 for n in range(20_000))


async def test_a_head_of_too_many_fields_is_431(tmp_path: Path) -> None:
    """Short as they are, each takes more here than on the wire; behind the body as well."""
    many = b"".join(b"a%d:\r\n" % n for n in range(2000))
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        head = request()[:-2]
        assert (await exchange(proxy_port(running), head + many + b"\r\n")).first.split(" ")[1] == "431"
        chunked = request("POST", "/x", [("Transfer-Encoding", "chunked")]) + b"0\r\n" + many + b"\r\n"
        assert (await exchange(proxy_port(running), chunked)).first.split(" ")[1] == "431"
        assert [asked.first for asked in gateway.asked if asked.whole] == []


async def test_a_gateway_that_never_reads_is_504(tmp_path: Path) -> None:
    """The upload stalls, and is given up; the agent hears of it."""

    async def deaf(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # declared for writing only
        await over.wait()
        writer.transport.abort()

    over = asyncio.Event()
    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    waits = {"OBSERVER_PROXY_IDLE_TIMEOUT": "0.5"}
    async with proxied(tmp_path, url, **waits) as running, connected(proxy_port(running)) as (reader, writer):
        async with asyncio.timeout(120):
            writer.write(request("POST", "/x", [("Content-Length", str(2**26))]) + b"x" * 2**25)
            message = await read_message(reader, response=True)
            assert message is not None
            assert message.first == "HTTP/1.1 504 Gateway Timeout"
            over.set()
    server.close()
    await server.wait_closed()


async def test_a_broken_rest_of_an_answered_request_gets_no_second_answer(tmp_path: Path) -> None:
    """The gateway answered early; the agent's body then goes wrong: the connection closes, and that is all."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxied(tmp_path, url) as running, connected(proxy_port(running)) as (reader, writer):
        async with asyncio.timeout(120):
            writer.write(request("POST", "/x", [("Transfer-Encoding", "chunked")]) + b"3\r\nabc\r\n")
            message = await read_message(reader, response=True)
            assert message is not None
            assert message.body == b"{}"
            writer.write(b"not a size\r\n" + request("GET", "/smuggled"))
            assert await reader.read() == b""
    server.close()
    await server.wait_closed()


BAD_ANSWERS = {
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a coding under chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a bare CR": b"HTTP/1.1 200 OK\r\nA: b\rSet-Cookie: c\r\nContent-Length: 0\r\n\r\n",
    "a bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "no such status": b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n",
    "a switch": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
    "endless fields": b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 70_000 + b"\r\n",
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
async def test_an_answer_that_could_be_read_in_two_ways_is_502(tmp_path: Path, name: str) -> None:
    """The agent gets none of it, and the connection is not used again."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(BAD_ANSWERS[name])
        got = await exchange(proxy_port(running), request())
        assert (got.first, b'"error"' in got.body) == ("HTTP/1.1 502 Bad Gateway", True)
        gateway.answering = answer(OK)
        assert (await exchange(proxy_port(running), request())).body == b"{}"
        assert gateway.connections == 2
