"""What the proxy does not let through: requests that two parsers could read differently, and ways to another host."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from sidecar.commands import check_proxy
from sidecar.errors import SettingsError
from sidecar.gateway.proxy_head import RequestRules
from sidecar.gateway.proxy_refusal import TOO_SLOW, RefusedError
from sidecar.gateway_address import GatewayAddress
from sidecar.pipeline.observer import Observer
from tests.observers import DEAD, observer, settings
from tests.proxied import OK, answer, connected, exchange, proxied, proxy_port, raw_gateway, read_message, request

GATEWAY = GatewayAddress.of("http://gw:1")
_HOST = b"Host: localhost\r\n"
_CHUNKED = b"POST /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "length and chunks": b"POST /x HTTP/1.1\r\n"
    + _HOST
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST /x HTTP/1.1\r\n"
    + _HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "the same length twice": b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "a list of lengths": b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: 3, 3\r\n\r\nabc",
    "a signed length": b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: +3\r\n\r\nabc",
    "a hexadecimal length": b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length: 0x3\r\n\r\nabc",
    "an unknown coding": b"POST /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": b"POST /x HTTP/1.1\r\n" + _HOST + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST /x HTTP/1.1\r\n"
    + _HOST
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": b"POST /x HTTP/1.0\r\n" + _HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a bare LF": b"GET /x HTTP/1.1\nHost: localhost\n\n",
    "a bare LF behind a field": b"GET /x HTTP/1.1\r\nHost: localhost\nA: b\r\n\r\n",
    "a bare CR": b"GET /x HTTP/1.1\r\n" + _HOST + b"A: b\rc\r\n\r\n",
    "a NUL": b"GET /x HTTP/1.1\r\n" + _HOST + b"A: b\0c\r\n\r\n",
    "a control character": b"GET /x HTTP/1.1\r\n" + _HOST + b"A: b\x01c\r\n\r\n",
    "a folded line": b"GET /x HTTP/1.1\r\n" + _HOST + b"A: b\r\n c\r\n\r\n",
    "a space before the first field": b"GET /x HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a space before the colon": b"POST /x HTTP/1.1\r\n" + _HOST + b"Content-Length : 3\r\n\r\nabc",
    "a chunk size with a prefix": _CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a signed chunk size": _CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a chunk longer than it said": _CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk with bare LF": _CHUNKED + b"3\nabc\n0\n\n",
    "a chunk extension with LF": _CHUNKED + b"3;a=\nb\r\nabc\r\n0\r\n\r\n",
    "a huge chunk size": _CHUNKED + b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a space in the target": b"GET /x y HTTP/1.1\r\n" + _HOST + b"\r\n",
    "a tab in the target": b"GET /x\ty HTTP/1.1\r\n" + _HOST + b"\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\n" + _HOST + b"Host: other\r\n\r\n",
    "an absolute target": b"GET http://127.0.0.1:1/x HTTP/1.1\r\n" + _HOST + b"\r\n",
    "a fragment": b"GET /x#y HTTP/1.1\r\n" + _HOST + b"\r\n",
    "a target without a slash": b"GET x HTTP/1.1\r\n" + _HOST + b"\r\n",
    "a star that is no OPTIONS": b"GET * HTTP/1.1\r\n" + _HOST + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /x\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_could_be_read_in_two_ways_is_refused(tmp_path: Path, name: str) -> None:
    """The gateway gets no whole request of it, the sender a 4xx or 5xx and a closed connection."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(MALFORMED[name] + request("GET", "/smuggled"))
            message = await read_message(reader, response=True)
            assert message is not None
            assert message.first.split(" ")[1] in ("400", "501", "505")
            assert b'"error"' in message.body
            assert await reader.read() == b""
        assert [asked.first for asked in gateway.asked if asked.whole] == []


async def test_what_came_before_a_bad_request_is_answered(tmp_path: Path) -> None:
    """Of two pipelined requests the first is answered whole, then the second refused."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        async with connected(proxy_port(running)) as (reader, writer), asyncio.timeout(120):
            writer.write(request("GET", "/good") + MALFORMED["a bare LF"])
            first = await read_message(reader, response=True)
            second = await read_message(reader, response=True)
            assert first is not None
            assert second is not None
            assert (first.body, second.first) == (b"{}", "HTTP/1.1 400 Bad Request")
        assert [asked.first for asked in gateway.asked] == ["GET /good HTTP/1.1"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:3701", "200"),
        ("127.0.0.1", "200"),
        ("[::1]:3701", "200"),
        ("10.1.2.3:80", "200"),
        ("friend.example:3701", "200"),
        ("FRIEND.example", "200"),
        ("friend.example.:3701", "200"),
        ("evil.example", "421"),
        ("localhost.evil.example", "421"),
        ("localhost@evil.example", "421"),
        ("localhost/../", "421"),
        ("127.0.0.1:000000000080", "421"),  # remembered by their spelling, hosts must have few
        ("", "421"),
    ],
)
async def test_a_foreign_host_is_refused(tmp_path: Path, host: str, status: str) -> None:
    """A page of another site that had its name point here (DNS rebinding) does not reach the gateway."""
    async with (
        raw_gateway() as gateway,
        proxied(tmp_path, gateway.url, OBSERVER_ALLOWED_HOSTS="Friend.example.") as running,
    ):
        message = await exchange(proxy_port(running), f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert message.first.split(" ")[1] == status
        assert len(gateway.asked) == (status == "200")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("Origin", "http://localhost")], "200"),
        ([("Origin", "HTTP://LOCALHOST")], "200"),
        ([("Origin", "https://friend.example:8443"), ("Sec-Fetch-Site", "cross-site")], "200"),
        ([("Origin", "https://friend.example.")], "200"),
        ([("Sec-Fetch-Site", "same-origin")], "200"),
        ([("Sec-Fetch-Site", "none")], "200"),
        ([("Origin", "https://evil.example")], "403"),
        ([("Origin", "https://evil.example"), ("Sec-Fetch-Site", "same-origin")], "403"),
        ([("Origin", "http://localhost"), ("Origin", "https://evil.example")], "403"),
        ([("Origin", "http://localhost:8000")], "403"),
        ([("Origin", "null")], "403"),
        ([("Origin", "")], "403"),
        ([("Origin", "http://[")], "403"),
        ([("Sec-Fetch-Site", "cross-site")], "403"),
        ([("Sec-Fetch-Site", "same-site")], "403"),
    ],
)
async def test_a_foreign_web_page_is_refused(tmp_path: Path, headers: list[tuple[str, str]], status: str) -> None:
    """A browser would otherwise call tools for any page that it shows; what is let through goes on unchanged."""
    async with (
        raw_gateway() as gateway,
        proxied(tmp_path, gateway.url, OBSERVER_ALLOWED_HOSTS="Friend.example.") as running,
    ):
        message = await exchange(proxy_port(running), request("POST", "/x", headers))
        assert message.first.split(" ")[1] == status
        assert len(gateway.asked) == (status == "200")
        for asked in gateway.asked:
            assert [pair for pair in asked.headers if pair[0] in ("Origin", "Sec-Fetch-Site")] == headers


async def test_upgrades_and_tunnels_are_501(tmp_path: Path) -> None:
    """Clearly, with a reason; an offer of HTTP/2 is passed over, body and all, as some clients make it always."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        port = proxy_port(running)
        socket = await exchange(port, request("GET", "/x", [("Connection", "Upgrade"), ("Upgrade", "websocket")]))
        assert (socket.first, b"WebSocket" in socket.body) == ("HTTP/1.1 501 Not Implemented", True)
        tunnel = await exchange(port, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert tunnel.first == "HTTP/1.1 501 Not Implemented"
        assert gateway.asked == []
        offer = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAARAAAAA")]
        for _ in range(2):
            assert (await exchange(port, request("POST", "/x", offer, b'{"a": 1}'))).body == b"{}"
            asked = gateway.asked.pop()
            assert (asked.body, asked.header("upgrade"), asked.header("http2-settings")) == (b'{"a": 1}', None, None)


async def test_a_loop_is_broken(tmp_path: Path) -> None:
    """A gateway that hands the call back to the proxy: 508, not a storm."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        await exchange(proxy_port(running), request())
        via = gateway.asked[0].header("x-observer-via")
        assert via is not None
        again = await exchange(proxy_port(running), request("GET", "/x", [("X-Observer-Via", via)]))
        assert again.first == "HTTP/1.1 508 Loop Detected"
        chained = await exchange(proxy_port(running), request("GET", "/x", [("X-Observer-Via", "another")]))
        assert chained.first == "HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("/tools", True),
        ("/tools/fill?x=/../", True),
        ("/v1/chat", True),
        ("/toolset", False),
        ("/", False),
        ("/admin", False),
        ("/tools/../admin", False),
        ("/tools/%2e%2e/admin", False),
        ("/tools/%252e%252e/admin", False),
        ("/tools\\..\\admin", False),
        ("/tools/..%2fadmin", False),
        ("/tools#/../admin", False),
        ("/tools/..;/admin", False),
        ("/tools/..%3b/admin", False),
        ("/tools/%25252e%25252e/admin", False),
        ("//tools", False),
    ],
)
def test_only_listed_paths_are_let_through(target: str, allowed: bool) -> None:
    """A list of paths is kept to, also where a path could be read as leading out of it."""
    rules = RequestRules(GATEWAY, [], ["/tools/", "/v1"], b"me")
    if target == "/tools":
        rules = RequestRules(GATEWAY, [], ["/tools", "/v1"], b"me")
    headers = [(b"Host", b"localhost")]
    if allowed:
        assert rules.read(b"GET", target.encode(), headers, version="1.1", keep_alive=True).target == target.encode()
    else:
        with pytest.raises(RefusedError):
            rules.read(b"GET", target.encode(), headers, version="1.1", keep_alive=True)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://{}/a/b?c=1", "/a/b?c=1"),
        ("HTTP://{}?c=http://x/", "/?c=http://x/"),
        ("http://{}", "/"),
        ("http://{}/http://other/", "/http://other/"),
        ("http://{}//other/", "//other/"),
        ("http://{}0/x", None),
        ("http://a@{}/x", None),
        ("https://{}/x", None),
        ("http://other/x", None),
        ("http://127.0.0.1/x", None),
        ("http:///x", None),
        ("http://{}/x#y", None),
    ],
)
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "friend.example"])
def test_an_absolute_target_that_names_this_proxy_is_a_path(name: str, target: str, path: str | None) -> None:
    """Any other is refused: it may be meant for another server."""
    rules = RequestRules(GATEWAY, ["friend.example"], [], b"me")
    rules.targets.port = 3701
    here = f"{name}:3701"
    given = target.format(here).encode()

    def read(host: str) -> bytes:
        return rules.read(b"GET", given, [(b"Host", host.encode())], version="1.1", keep_alive=True).target

    if path is None:
        with pytest.raises(RefusedError):
            read(here)
    else:
        assert read(here) == path.encode()
        with pytest.raises(RefusedError):
            read("localhost:1")


async def test_a_client_that_sends_absolute_targets_reaches_the_gateway(tmp_path: Path) -> None:
    """And the paths that are allowed are kept to."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, OBSERVER_PROXY_PATHS="/tools") as running:
        here = f"127.0.0.1:{proxy_port(running)}"
        for path, status in (("/tools/x?a=1", "200"), ("/admin", "403"), ("/tools/../admin", "403")):
            asked = f"GET http://{here}{path} HTTP/1.1\r\nHost: {here}\r\n\r\n".encode()
            assert (await exchange(proxy_port(running), asked)).first.split(" ")[1] == status
        assert [each.first for each in gateway.asked] == ["GET /tools/x?a=1 HTTP/1.1"]


async def test_refusals_are_counted_not_recorded(tmp_path: Path) -> None:
    """They never reached the gateway: no op, but a number by status."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, OBSERVER_PROXY_PATHS="/tools") as running:
        await exchange(proxy_port(running), request("GET", "/admin"))
        await exchange(proxy_port(running), b"nonsense\r\n\r\n")
        assert running.proxy is not None
        assert running.proxy.agents.refused == {"403": 1, "400": 1}
        assert (len(running.ring), running.proxy.recorder.calls) == (0, 0)


async def test_hop_by_hop_fields_end_here(tmp_path: Path) -> None:
    """Both ways, and those that `Connection` names; framing cannot be hidden that way."""
    reply = OK.replace(b"\r\n", b"\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nX-Kept: 1\r\n", 1)
    fields = [("Connection", "X-Hop, content-length, host"), ("X-Hop", "1"), ("TE", "trailers, gzip"), ("X-End", "1")]
    fields += [("Keep-Alive", "timeout=9"), ("Proxy-Connection", "keep-alive"), ("Proxy-Authorization", "Basic abc")]
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(reply)
        got = await exchange(proxy_port(running), request("POST", "/x", fields, b"{}"))
        asked = gateway.asked[0]
        assert [asked.header(name) for name in ("x-hop", "te", "keep-alive", "proxy-connection")] == [
            None,
            "trailers",
            None,
            None,
        ]
        assert [asked.header(name) for name in ("x-end", "content-length", "proxy-authorization")] == [
            "1",
            "2",
            "Basic abc",
        ]
        assert [got.header(name) for name in ("x-own", "keep-alive", "x-kept")] == [None, None, "1"]


async def test_old_clients_get_old_answers(tmp_path: Path) -> None:
    """HTTP/1.0 knows no chunks: the body ends with the connection."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
        got = await exchange(proxy_port(running), b"GET /x HTTP/1.0\r\n\r\n")
        assert (got.body, got.header("transfer-encoding"), got.header("connection")) == (b"hi", None, "close")


def refused(tmp_path: Path, **env: str) -> str:
    """Why an observer with these settings is not built."""
    with pytest.raises(SettingsError) as why:
        Observer(settings(tmp_path, **{"OBSERVER_PROXY_PORT": "3701", **env})).metrics.shutdown()
    return str(why.value)


def test_settings_that_would_harm_are_refused(tmp_path: Path) -> None:
    """Beyond loopback without saying so, a gateway that is the observer itself, two doors on one port."""
    assert "OBSERVER_PROXY_EXPOSE" in refused(tmp_path, OBSERVER_PROXY_HOST="0.0.0.0")
    assert "the observer itself" in refused(tmp_path, GATEWAY_URL="http://localhost:3701")
    assert "the observer itself" in refused(tmp_path, GATEWAY_URL="http://localhost:3800", OBSERVER_PORT="3800")
    assert "OBSERVER_PROXY_PORT" in refused(tmp_path, OBSERVER_HEALTH_PORT="3701")
    exposed = {"OBSERVER_PROXY_HOST": "0.0.0.0", "OBSERVER_PROXY_EXPOSE": "true", "OBSERVER_PROXY_PORT": "0"}
    Observer(settings(tmp_path, **exposed)).metrics.shutdown()


async def test_a_taken_port_stops_the_start(tmp_path: Path) -> None:
    """Agents would talk to whoever has it: the start fails and names the setting."""
    async with raw_gateway() as gateway:
        with pytest.raises(Exception, match="OBSERVER_PROXY_PORT"):
            async with observer(tmp_path, GATEWAY_URL=DEAD, OBSERVER_PROXY_PORT=str(gateway.port)):
                pass


async def test_a_probe_is_answered_by_the_proxy_itself(tmp_path: Path) -> None:
    """`observer doctor` asks whether it is there without calling the gateway."""
    async with proxied(tmp_path, DEAD) as running:
        got = await exchange(proxy_port(running), request("GET", "/", [("X-Observer-Probe", "1")]))
        assert got.first == "HTTP/1.1 204 No Content"
        assert got.header("x-observer-proxy")
        assert len(running.ring) == 0


async def test_doctor_looks_at_the_proxys_port(tmp_path: Path) -> None:
    """Free, held by a proxy of ours (which is not made to call the gateway), taken by a stranger, or not wanted."""
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        ours = await check_proxy.proxy_port(settings(tmp_path, OBSERVER_PROXY_PORT=str(proxy_port(running))))
        assert (ours.status, "held by a proxy" in ours.found, gateway.asked) == ("ok", True, [])
        taken = await check_proxy.proxy_port(settings(tmp_path, OBSERVER_PROXY_PORT=str(gateway.port)))
        assert (taken.status, "OBSERVER_PROXY_PORT" in taken.fix) == ("fail", True)
    assert (await check_proxy.proxy_port(settings(tmp_path, OBSERVER_PROXY_PORT="-1"))).status == "ok"
    assert (await check_proxy.proxy_port(settings(tmp_path, OBSERVER_PROXY_PORT="0"))).status == "ok"
    exposed = {"OBSERVER_PROXY_HOST": "0.0.0.0", "OBSERVER_PROXY_EXPOSE": "true", "OBSERVER_PROXY_PORT": "0"}
    assert (await check_proxy.proxy_port(settings(tmp_path, **exposed))).status == "warn"


async def test_an_agent_that_left_before_its_refusal_is_no_fault(tmp_path: Path) -> None:
    """It is written to a socket that nobody has any more: the kernel resets that, and the connection is let go."""
    loop = asyncio.get_running_loop()
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        proxy = running.proxy
        assert proxy is not None
        with socket.socket() as agent:
            agent.setblocking(False)
            await loop.sock_connect(agent, ("127.0.0.1", proxy_port(running)))
            await loop.sock_sendall(agent, request("GET", "/x"))
            assert (await loop.sock_recv(agent, 2**16)).startswith(b"HTTP/1.1 200")
        (connection,) = proxy.agents.connections
        connection.refused(TOO_SLOW)  # before the loop has been round to see the agent's end
        async with asyncio.timeout(120):
            await proxy.agents.quiet()
