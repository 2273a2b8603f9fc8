"""Agents and gateways that mean harm, over real sockets: what they hold of the proxy is bounded, in bytes and time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.gateway.proxied_call import PREFIX_BYTES, TAIL_BYTES, Capture, CaptureBudget
from sidecar.gateway.proxy_head import RequestHead, RequestRules
from sidecar.gateway.proxy_refusal import RefusedError
from sidecar.gateway.proxy_requests import RequestReader
from sidecar.pipeline.observer import Observer
from tests.observers import settled
from tests.proxied import (
    OK,
    Message,
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


async def gone(running: Observer) -> None:
    """Until no agent's connection is left."""
    assert running.proxy is not None
    async with asyncio.timeout(30):
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
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(30):
            writer.write(request("GET", "/x", [("Connection", "close")]))
            assert b"Connection: close" in await reader.readuntil(b"\r\n\r\n")
            left = size
            while left and (piece := await reader.read(2**16)):
                left -= len(piece)
            assert left == 0


class Taker:
    """Keeps what a reader hands over."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.refusals: list[int] = []
        self.ends = 0

    def request_head(self, head: RequestHead) -> None:
        self.heads.append(head.target)
        self.bodies.append(b"")

    def request_data(self, data: bytes) -> None:
        self.bodies[-1] += data

    def request_end(self, _trailers: list[tuple[bytes, bytes]]) -> None:
        self.ends += 1

    def refused(self, refusal: RefusedError) -> None:
        self.refusals.append(refusal.status)


def reading(paths: list[str] | None = None) -> tuple[Taker, RequestReader]:
    taker = Taker()
    return taker, RequestReader(taker, RequestRules("gw:1", "gw", [], paths or [], b"me"), lambda: 0.0)


kinds = st.sampled_from(["none", "length", "chunked", "offer", "empty lines"])
messages = st.lists(st.tuples(kinds, st.binary(max_size=50) | st.just(b"\r\n\r\n" * 9)), min_size=1, max_size=12)


def written(number: int, kind: str, body: bytes) -> bytes:
    if kind == "none":
        return request("GET", f"/{number}")
    if kind == "chunked":
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nX-End: 1\r\n\r\n"
        return request("POST", f"/{number}", [("Transfer-Encoding", "chunked")]) + chunks
    before = b"\r\n" if kind == "empty lines" else b""
    return before + request("POST", f"/{number}", H2C if kind == "offer" else [], body)


@given(messages, st.integers(1, 5000))
def test_requests_are_read_one_at_a_time(sent: list[tuple[str, bytes]], step: int) -> None:
    """However they are cut on the way: the next is looked at when the one before is answered, and none is lost."""
    taker, reader = reading()
    data = b"".join(written(number, kind, body) for number, (kind, body) in enumerate(sent))
    for at in range(0, len(data), step):
        reader.feed(data[at : at + step], len(data[at : at + step]))
        assert len(taker.heads) <= 1
    for number in range(len(sent)):
        assert (len(taker.heads), taker.ends) == (number + 1, number + 1)
        reader.next()
    assert taker.heads == [b"/%d" % number for number in range(len(sent))]
    assert taker.bodies == [b"" if kind == "none" else body for kind, body in sent]
    assert (taker.refusals, reader.full) == ([], False)


@pytest.mark.parametrize("kind", ["none", "length", "chunked", "offer", "empty lines"])
def test_a_cut_at_any_byte_brings_no_second_request(kind: str) -> None:
    """Also within the empty line that ends the first: one that was read with it would get its answer."""
    first = written(0, kind, b"body")
    data = first + written(1, kind, b"next")
    for at in range(1, len(data)):
        taker, reader = reading()
        for piece in (data[:at], data[at:]):
            reader.feed(piece, len(piece))
            assert len(taker.heads) <= 1
        assert (taker.heads, taker.ends) == ([b"/0"], 1)
        reader.next()
        assert (taker.heads, taker.ends, taker.refusals) == ([b"/0", b"/1"], 2, [])


async def test_an_agent_that_sent_ahead_and_hangs_up_is_noticed(tmp_path: Path) -> None:
    """Though nothing of what it sent ahead is read: the call under way is cancelled, the others are none."""
    begun = asyncio.Event()

    async def silent(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        begun.set()
        await asyncio.Event().wait()
        return False

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running, asyncio.timeout(30):
        gateway.answering = silent
        async with connected(proxy_port(running)) as (_reader, writer):
            writer.write(request() * 20)
            await begun.wait()
        await gone(running)
        await settled(running, 1)
        assert [op.error_type for op in running.ring.ops()] == ["CancelledError"]


async def test_hundreds_of_offers_at_once(tmp_path: Path) -> None:
    """Pipelined offers of HTTP/2 are each passed over; what `Connection` names besides ends here."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(60):
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
        async with asyncio.timeout(30):
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
            async with asyncio.timeout(30):
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
        async with asyncio.timeout(30):
            writer.write(request("POST", "/x", [("Content-Length", str(2**26))]) + b"x" * 2**25)
            message = await read_message(reader, response=True)
            assert message is not None
            assert message.first == "HTTP/1.1 504 Gateway Timeout"
            over.set()
    server.close()
    await server.wait_closed()


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
    async with proxied(tmp_path, url) as running, asyncio.timeout(30):
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
        async with asyncio.timeout(30):
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


@pytest.mark.parametrize(
    "target",
    [
        "/tools/%2e%2e%2fadmin",
        "/tools/.%2e/admin",
        "/tools/%c0%ae%c0%ae/admin",
        "/tools/%ef%bc%8e%ef%bc%8e/admin",
        "/tools/%e2%80%a5/admin",
        "/tools/%u002e%u002e/admin",
        "/tools/%5c..%5cadmin",
        "/tools/x%00/../admin",
        "/tools%2f..%2fadmin",
        "/tools/./../admin",
        "/tools/%23/../../admin",
        "/tools/..%09/admin",
        "/tools/..%20/admin",
        "/TOOLS/x",
        "*",
    ],
)
def test_no_spelling_leads_out_of_the_allowed_paths(target: str) -> None:
    """Overlong, full-width, mixed and twice coded dots, other separators: refused, never guessed at."""
    taker, reader = reading(["/tools"])
    method = "OPTIONS" if target == "*" else "GET"
    data = request(method, target)
    reader.feed(data, len(data))
    assert (taker.heads, taker.refusals) == ([], [403])


@pytest.mark.parametrize("name", ["X-Original-URL", "x-rewrite-url"])
def test_no_header_leads_out_of_the_allowed_paths(name: str) -> None:
    """Some servers take the path from a header: where paths are listed it is refused, else it is the gateway's."""
    data = request("GET", "/tools", [(name, "/admin")])
    for paths, refusals in ((["/tools"], [403]), ([], [])):
        taker, reader = reading(paths)
        reader.feed(data, len(data))
        assert taker.refusals == refusals
