"""Through the proxy nothing differs from a direct call: target, status, fields, bodies, however they are framed."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.pipeline.observer import Observer
from tests.proxied import Message, Pairs, RawGateway, answer, exchange, proxied, proxy_port, raw_gateway, request

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "QUERY", "PURGE"]
_TARGET = st.text(string.ascii_letters + string.digits + "/-._~!$&'()*+,;=:@%?[]|\"<>{}^`\\", max_size=40).map(
    "/".__add__
)
_NAME = st.one_of(
    st.sampled_from(
        ["Accept", "ACCEPT", "accept", "X-Odd", "x-odd", "Cookie", "Authorization", "Cache-Control", "Via"]
    ),
    st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=12).map("Q-".__add__),
)
_VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=30).map(
    str.strip
)
_HEADERS = st.lists(st.tuples(_NAME, _VALUE), max_size=6)
_BODY = st.one_of(st.none(), st.binary(max_size=300), st.binary(min_size=1, max_size=20).map(lambda b: b * 5000))
_STATUS = st.sampled_from([200, 201, 202, 204, 206, 301, 304, 400, 401, 404, 409, 418, 429, 500, 503, 599])
_FRAMING = st.sampled_from(["length", "chunked", "close"])


def chunked(body: bytes, sizes: list[int], trailers: Pairs) -> bytes:
    """*body* in chunks of *sizes*, the last of them over and over."""
    out, at, number = b"", 0, 0
    while at < len(body):
        size = sizes[min(number, len(sizes) - 1)]
        piece = body[at : at + size]
        out += b"%X;note=1\r\n%b\r\n" % (len(piece), piece)
        at, number = at + size, number + 1
    return out + b"0\r\n" + b"".join(f"{k}: {v}\r\n".encode("latin-1") for k, v in trailers) + b"\r\n"


def response(status: int, headers: Pairs, body: bytes, framing: str, method: str) -> bytes:
    """A response's bytes; HEAD, 204 and 304 have no body."""
    bodiless = method == "HEAD" or status in (204, 304)
    lines = [f"HTTP/1.1 {status} Whatever it is", *(f"{name}: {value}" for name, value in headers)]
    data = body
    if framing == "chunked" and status not in (204, 304):
        lines.append("Transfer-Encoding: chunked")
        data = chunked(body, [7, 4096], [("X-Sum", "1")])
    elif framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if bodiless else data)


class Both:
    """The same request made directly and through the proxy, on one event loop of its own."""

    def __init__(self, runner: asyncio.Runner, tmp_path: Path) -> None:
        self._runner = runner
        self._stop = asyncio.Event()
        self._tmp_path = tmp_path
        self.gateway = RawGateway()
        self.port = 0
        self.running: Observer | None = None
        started = runner.run(self._started())
        self._task = started

    async def _started(self) -> asyncio.Task[None]:
        ready = asyncio.Event()
        task = asyncio.create_task(self._run(ready))
        await ready.wait()
        return task

    async def _run(self, ready: asyncio.Event) -> None:
        async with raw_gateway() as self.gateway, proxied(self._tmp_path, self.gateway.url) as self.running:
            self.port = proxy_port(self.running)
            ready.set()
            await self._stop.wait()

    def ask(self, sent: bytes, reply: bytes, *, bodiless: bool, keep: bool) -> list[tuple[Message, Message]]:
        """(what the gateway got, what the client got), directly and through the proxy."""
        self.gateway.answering = answer(reply, keep=keep)
        seen = []
        for port in (self.gateway.port, self.port):
            got = self._runner.run(exchange(port, sent, bodiless=bodiless))
            seen.append((self.gateway.asked.pop(), got))
        return seen

    def stop(self) -> None:
        self._stop.set()
        self._runner.run(asyncio.wait_for(self._task, 30))


@pytest.fixture(params=["uvloop", "asyncio"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Both]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        it = Both(runner, tmp_path)
        yield it
        it.stop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(_METHODS),
    target=_TARGET,
    headers=_HEADERS,
    body=_BODY,
    chunk=st.booleans(),
    status=_STATUS,
    reply_headers=_HEADERS,
    reply_body=_BODY,
    framing=_FRAMING,
)
def test_a_call_through_the_proxy_is_the_direct_call(
    both: Both,
    method: str,
    target: str,
    headers: Pairs,
    body: bytes | None,
    chunk: bool,
    status: int,
    reply_headers: Pairs,
    reply_body: bytes | None,
    framing: str,
) -> None:
    """Method, raw target, fields with their case and repetitions, body; status, reason, fields, body, trailers."""
    trailers = [("X-Check", "abc")]
    if chunk and body is not None:
        sent = request(method, target, [*headers, ("Transfer-Encoding", "chunked")]) + chunked(body, [1, 999], trailers)
    else:
        sent = request(method, target, headers, body)
    reply = response(status, reply_headers, reply_body or b"", framing, method)
    bodiless = method == "HEAD"
    (direct, got), (through, got_through) = both.ask(sent, reply, bodiless=bodiless, keep=framing != "close")
    assert through.first == direct.first
    assert through.end_to_end() == direct.end_to_end()
    assert (through.body, through.trailers) == (direct.body, direct.trailers)
    assert through.header("traceparent") is not None
    assert through.header("host") == f"127.0.0.1:{both.gateway.port}"
    assert len(got_through.header("x-observer-trace-id") or "") == 32
    assert got_through.first == got.first
    assert got_through.end_to_end() == got.end_to_end()
    assert (got_through.body, got_through.trailers, got_through.whole) == (got.body, got.trailers, True)


def test_compressed_bodies_pass_as_they_are(both: Both) -> None:
    """What the gateway compressed is not unpacked on the way, and what the agent compressed neither."""
    packed = gzip.compress(b'{"rows": [1, 2]}')
    sent = request("POST", "/x", [("Content-Encoding", "gzip"), ("Accept-Encoding", "gzip, br")], packed)
    reply = response(
        200, [("Content-Encoding", "gzip"), ("Content-Type", "application/json")], packed, "length", "POST"
    )
    for asked, got in both.ask(sent, reply, bodiless=False, keep=True):
        assert (asked.body, got.body) == (packed, packed)


def test_early_hints_and_continue_pass(both: Both) -> None:
    """1xx responses reach the client before the final one."""
    reply = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + response(200, [], b"ok", "length", "GET")
    for _asked, got in both.ask(request(), reply, bodiless=False, keep=True):
        assert got.body == b"ok"


async def test_curl_and_node_see_no_difference(tmp_path: Path) -> None:
    """Clients of others: the same output for a call directly and through the proxy."""
    script = (
        "const http=require('http');const r=http.request({port:+process.argv[1],host:'127.0.0.1',path:'/a%7Eb/ü?q=%20',"
        "method:'POST',headers:{'X-A':['1','2'],'content-type':'application/json'}},s=>{let b='';s.on('data',d=>b+=d);"
        "s.on('end',()=>console.log(s.statusCode,s.statusMessage,b,s.headers['x-b'],JSON.stringify(s.trailers)))});"
        "r.write('{\"a\":');r.end('1}')"
    ).replace("ü", "u")
    commands = [["curl", "-s", "-i", "--path-as-is", "-d", "a=1", "http://127.0.0.1:PORT/a%7Eb/../c?q=%20"]]
    commands += [["node", "-e", script, "PORT"]] if shutil.which("node") else []
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    reply = response(207, [("X-B", "1"), ("X-B", "2")], b"the answer", "length", "POST")
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url) as running:
        gateway.answering = answer(reply)
        for command in commands:
            outputs = []
            for port in (gateway.port, proxy_port(running)):
                args = [part.replace("PORT", str(port)) for part in command]
                process = await asyncio.create_subprocess_exec(*args, stdout=asyncio.subprocess.PIPE)
                out, _ = await process.communicate()
                outputs.append([line for line in out.splitlines() if b"X-Observer-Trace-Id" not in line])
            assert outputs[0] == outputs[1]
            assert b"the answer" in b"".join(outputs[0])
            direct, through = gateway.asked[-2:]
            assert (direct.first, direct.body, direct.end_to_end()) == (
                through.first,
                through.body,
                through.end_to_end(),
            )
