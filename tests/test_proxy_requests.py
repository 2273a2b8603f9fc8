"""The reader of requests: one at a time, wherever the bytes are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.gateway.proxy_head import RequestHead, RequestRules
from sidecar.gateway.proxy_refusal import RefusedError
from sidecar.gateway.proxy_requests import RequestReader
from sidecar.gateway_address import GatewayAddress
from tests.proxied import (
    request,
)
from tests.test_proxy_attacks import H2C


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
    taker, rules = Taker(), RequestRules(GatewayAddress.of("http://gw:1"), [], paths or [], b"me")
    return taker, RequestReader(taker, rules, lambda: 0.0)


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
