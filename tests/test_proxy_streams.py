"""What flows through the proxy flows: event by event, no faster than it is read, and no longer than it is wanted."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from pathlib import Path

import pytest

from sidecar.pipeline.observer import Observer
from tests.observers import DEAD, settled
from tests.proxied import (
    OK,
    Message,
    RawGateway,
    answer,
    connected,
    exchange,
    proxied,
    proxy_port,
    raw_gateway,
    read_message,
    request,
)


async def only_op(running: Observer) -> dict[str, object]:
    """The one op that came of the one call."""
    await settled(running, 1)
    (op,) = running.ring.ops()
    return {name: getattr(op, name) for name in ("endpoint", "success", "error", "error_type", "output_summary")}


async def test_events_pass_one_by_one(tmp_path: Path) -> None:
    """The gateway sends an event only once the agent has the one before: nothing is held back on the way."""
    seen = asyncio.Event()

    async def events(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(20):
            event = b'data: {"n": %d}\n\n' % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await seen.wait()
            seen.clear()
        writer.write(b"0\r\n\r\n")
        return True

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = events
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(request())
            await reader.readuntil(b"\r\n\r\n")
            for number in range(20):
                assert b'"n": %d}' % number in await reader.readuntil(b"\n\n\r\n")
                seen.set()
            assert await reader.readexactly(5) == b"0\r\n\r\n"
        assert (await only_op(running))["success"] is True


async def test_a_request_streams_before_it_is_whole(tmp_path: Path) -> None:
    """Pieces of a chunked request arrive one by one, and a response may come before its end."""
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
            pieces.put_nowait(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readexactly(2)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxied(tmp_path, url) as running, connected(proxy_port(running)) as (_reader, writer):
        async with asyncio.timeout(120):
            writer.write(request("POST", "/x", [("Transfer-Encoding", "chunked")]) + b"3\r\nabc\r\n")
            assert await pieces.get() == b"abc"
    server.close()
    await server.wait_closed()


async def test_a_slow_reader_holds_the_gateway_back(tmp_path: Path) -> None:
    """While the agent does not read, the gateway's writes stall: the body is not gathered here."""
    total, sent = 64 * 2**20, 0
    stalled = asyncio.Event()

    async def flood(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % total)
        while sent < total:
            writer.write(b"x" * 65536)
            sent += 65536
            drained = asyncio.ensure_future(writer.drain())
            done, _ = await asyncio.wait([drained], timeout=0.5)
            if not done:
                stalled.set()
            await drained
        return True

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = flood
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(request())
            await stalled.wait()
            assert sent < 32 * 2**20
            await reader.readuntil(b"\r\n\r\n")
            left = total
            while left:
                left -= len(await reader.read(min(left, 2**20)))
        op = await only_op(running)
        assert op["output_summary"] == f"application/octet-stream, {total} bytes"


async def test_a_slow_gateway_holds_the_agent_back(tmp_path: Path) -> None:
    """While the gateway does not read, the agent's writes stall, and all of the body arrives in the end."""
    total, read_on = 32 * 2**20, asyncio.Event()
    got = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        await read_on.wait()
        while got < total:
            got += len(await reader.read(2**20))
        writer.write(OK)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(slow, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxied(tmp_path, url) as running, connected(proxy_port(running)) as (reader, writer):
        async with asyncio.timeout(120):
            writer.write(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % total)
            sending = asyncio.ensure_future(_send(writer, total))
            done, _ = await asyncio.wait([sending], timeout=0.5)
            assert not done
            read_on.set()
            await sending
            message = await read_message(reader, response=True)
            assert message is not None
            assert message.body == b"{}"
    assert got == total
    server.close()
    await server.wait_closed()


async def _send(writer: asyncio.StreamWriter, total: int) -> None:
    for _ in range(total // 65536):
        writer.write(b"y" * 65536)
        await writer.drain()


@pytest.mark.parametrize("target", ["/silent", "/half"])
async def test_an_agent_that_hangs_up_cancels_the_call(tmp_path: Path, target: str) -> None:
    """The gateway sees its connection close, before and in the middle of an answer; the op says so."""
    begun, lost = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await read_message(reader)
        assert asked is not None
        if "half" in asked.first:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
        begun.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        lost.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with proxied(tmp_path, url) as running, asyncio.timeout(120):
        async with connected(proxy_port(running)) as (reader, writer):
            writer.write(request("POST", target, body=b"{}"))
            await begun.wait()
            if "half" in target:
                await reader.readuntil(b"half of it")
        await lost.wait()
        op = await only_op(running)
        assert (op["success"], op["error"], op["error_type"]) == (False, "cancelled by the caller", "CancelledError")
    server.close()
    await server.wait_closed()


async def test_connections_to_the_gateway_are_used_again(tmp_path: Path) -> None:
    """Calls one after the other, from several agents, take one connection; the agent's stays open too."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            for _ in range(5):
                writer.write(request("POST", "/x", body=b"{}"))
                message = await read_message(reader, response=True)
                assert message is not None
                assert message.body == b"{}"
        assert (await exchange(proxy_port(running), request())).body == b"{}"
        assert (len(gateway.asked), gateway.connections) == (6, 1)


async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    """All are sent at once; each answer belongs to its request."""

    async def echo(asked: Message, writer: asyncio.StreamWriter) -> bool:
        body = asked.first.split(" ")[1].encode() + asked.body
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        return True

    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = echo
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(b"".join(request("POST", f"/{n}", body=b"b%d" % n) for n in range(50)))
            for number in range(50):
                message = await read_message(reader, response=True)
                assert message is not None
                assert message.body == b"/%db%d" % (number, number)


async def test_more_than_one_answer_poisons_nothing(tmp_path: Path) -> None:
    """A gateway that sends a response nobody asked for: the next call does not get it."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        first = await exchange(proxy_port(running), request())
        gateway.answering = answer(OK)
        second = await exchange(proxy_port(running), request())
        assert (first.body, second.body) == (b"{}", b"{}")
        assert gateway.connections == 2


async def test_a_connection_closed_while_idle_is_no_failure(tmp_path: Path) -> None:
    """The gateway closes after each answer without saying so: the next call gets a new connection."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(OK, keep=False)
        for _ in range(10):
            assert (await exchange(proxy_port(running), request())).first == "HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("cut", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", True),
    ],
)
async def test_a_cut_answer_stays_cut(tmp_path: Path, cut: bytes, whole: bool) -> None:
    """What the gateway did not finish the agent does not take for whole; an end by closing is one."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(cut, keep=False)
        message = await exchange(proxy_port(running), request())
        assert message.whole is whole
        assert (await only_op(running))["success"] is whole


@pytest.mark.parametrize(
    ("sent", "status", "error_type"),
    [
        (b"", 502, "RemoteProtocolError"),
        (b"nonsense\r\n\r\n", 502, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 502, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc", 502, "RemoteProtocolError"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, "RemoteProtocolError"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 600_000, 502, "RemoteProtocolError"),
    ],
)
async def test_a_gateway_that_answers_badly_is_502(tmp_path: Path, sent: bytes, status: int, error_type: str) -> None:
    """The agent gets JSON with `error` and the trace id; the op has the failure."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(sent, keep=False)
        message = await exchange(proxy_port(running), request("POST", "/x", body=b"{}"))
        assert message.first.startswith(f"HTTP/1.1 {status} ")
        assert b'"error"' in message.body
        assert message.header("x-observer-trace-id")
        op = await only_op(running)
        assert (op["success"], op["error_type"]) == (False, error_type)


async def test_a_gateway_that_is_gone_is_502(tmp_path: Path) -> None:
    """Nobody listens there: at once, and with what to look at."""
    async with proxied(tmp_path, DEAD) as running:
        message = await exchange(proxy_port(running), request("POST", "/x", body=b"{}"))
        assert message.first.startswith("HTTP/1.1 502 ")
        assert b"the gateway cannot be reached" in message.body
        assert (await only_op(running))["error_type"] == "ConnectError"


async def test_each_wait_has_its_own_time_out(tmp_path: Path) -> None:
    """The first byte, and silence in the middle: 504 where nothing was sent, else the connection closes."""

    async def half(asked: Message, writer: asyncio.StreamWriter) -> bool:
        if "half" in asked.first:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await asyncio.Event().wait()
        return False

    waits = {"OBSERVER_PROXY_FIRST_BYTE_TIMEOUT": "1.5", "OBSERVER_PROXY_IDLE_TIMEOUT": "1.5"}
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, **waits) as running:
        gateway.answering = half
        silent = await exchange(proxy_port(running), request())
        assert (silent.first, silent.body) == (
            "HTTP/1.1 504 Gateway Timeout",
            b'{"error":"the gateway gave no answer in 1.5 s"}',
        )
        broken = await exchange(proxy_port(running), request("GET", "/half"))
        assert (broken.first, broken.whole) == ("HTTP/1.1 200 OK", False)
        await settled(running, 2)
        assert [op.error_type for op in running.ring.ops()] == ["TimeoutError", "TimeoutError"]


async def test_a_request_that_does_not_arrive_is_408(tmp_path: Path) -> None:
    """A head that stops in the middle is given up."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, OBSERVER_BODY_TIMEOUT="0.2") as running:
        assert (await exchange(proxy_port(running), b"GET / HT")).first == "HTTP/1.1 408 Request Timeout"
        assert gateway.asked == []


async def test_calls_under_way_end_before_the_proxy_stops(tmp_path: Path) -> None:
    """Stopping lets the answer through, and its op is in the journal."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def later(_asked: Message, writer: asyncio.StreamWriter) -> bool:
        asked.set()
        await go_on.wait()
        writer.write(OK)
        return True

    async with raw_gateway() as gateway:
        gateway.answering = later
        async with proxied(tmp_path, gateway.url) as running:
            calling = asyncio.create_task(exchange(proxy_port(running), request()))
            await asked.wait()
            assert running.proxy is not None
            stopping = asyncio.create_task(running.proxy.stop())
            await asyncio.sleep(0)
            go_on.set()
            assert (await calling).body == b"{}"
            await stopping
        assert (tmp_path / "data" / "ops.jsonl").read_bytes().count(b"\n") == 1


async def test_a_gateway_that_speaks_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https gateway is verified with the system's certificates; the agent goes on speaking plain HTTP to us."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl program, which makes the certificate, is not installed")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-subj", "/CN=gateway", "-addext", "subjectAltName=IP:127.0.0.1"]
    args = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, "-keyout", str(key)]
    making = await asyncio.create_subprocess_exec(*args, "-out", str(cert), stderr=asyncio.subprocess.DEVNULL)
    assert await making.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    gateway = RawGateway()
    server = await asyncio.start_server(gateway.serve, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    body = b"y" * 300_000
    async with proxied(tmp_path / "stranger", url) as running:
        unknown = await exchange(proxy_port(running), request())
        assert (unknown.first, b"certificate" in unknown.body) == ("HTTP/1.1 502 Bad Gateway", True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    async with proxied(tmp_path / "known", url) as running:
        for _ in range(3):
            assert (await exchange(proxy_port(running), request("POST", "/x", body=body))).body == b"{}"
    assert ([len(asked.body) for asked in gateway.asked], gateway.connections) == ([300_000] * 3, 1)
    server.close()
    await server.wait_closed()
