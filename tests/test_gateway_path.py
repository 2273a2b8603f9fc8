"""A gateway below a path: proxy, wrapper and posts agree on where it is, and on the names of its endpoints."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.gateway.proxy_head import RequestRules
from sidecar.gateway.proxy_refusal import RefusedError
from sidecar.gateway.route_template import Templates
from sidecar.gateway_address import GatewayAddress
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from sidecar.settings import Settings
from sidecar.spans.conventions import SpanConventions
from sidecar.spans.gateway_urls import GatewayUrls
from tests.fakes import ManualClock
from tests.observers import journal, observer, settled, stand_in
from tests.proxied import exchange, proxied, proxy_port, raw_gateway, request
from tests.test_proxy_attacks import H2C
from tests.test_settings import refusal

GATEWAY = GatewayAddress.of("http://gw:3700/api/")
PATHS = st.text("/api.x?é ", max_size=12)


async def test_every_call_goes_below_the_path_and_has_one_name(tmp_path: Path) -> None:
    """Through the proxy, with the path or without it, by the wrapper, and for what is posted to `/log`."""
    async with (
        stand_in() as gateway,
        observer(tmp_path, GATEWAY_URL=f"{gateway.url}/api/", OBSERVER_PROXY_PORT="0") as running,
    ):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy_port(running)}", trust_env=False) as agent:
            for path in ("/tools/x?n=1", "/api/tools/x?n=1"):
                assert (await agent.post(path, json={"a": 1})).status_code == 200
        await running.gateway.observed("/tools/x", {"a": 1}, "x")
        await settled(running, 3)
        assert running.outbox is not None
        await running.outbox.put("t", {"operation": "x"})
        await running.outbox.idle()
        ops = running.ring.ops()
    assert [asked.path for asked in gateway.asked] == ["/api/tools/x?n=1"] * 2 + ["/api/tools/x", "/api/log"]
    assert {op.endpoint for op in ops} == {"/tools/x"}
    urls = [line["span"]["attributes"]["url.full"] for line in journal(tmp_path)]
    assert urls == [f"{gateway.url}/api/tools/x?n=1"] * 2 + [f"{gateway.url}/api/tools/x"]


async def test_a_model_call_is_recognised_by_its_whole_path(tmp_path: Path) -> None:
    """Also where a part of what tells the API is in the gateway's address."""
    async with raw_gateway() as gateway, proxied(tmp_path, f"{gateway.url}/v1") as running:
        sent = request(
            "POST", "/messages", [("Content-Type", "application/json"), *H2C], b'{"model": "m", "messages": []}'
        )
        assert (await exchange(proxy_port(running), sent)).first.split(" ")[1] == "200"
        await settled(running, 1)
        (op,) = running.ring.ops()
    assert gateway.asked[0].first == "POST /v1/messages HTTP/1.1"
    assert op.endpoint == "/messages"
    assert op.extra is not None
    assert op.extra["gen_ai.request.model"] == "m"


@pytest.mark.parametrize(
    ("target", "path", "sent"),
    [
        ("/tools/x", "/tools/x", "/api/tools/x"),
        ("/api/tools/x", "/tools/x", "/api/tools/x"),
        ("/tools?next=/api", "/tools?next=/api", "/api/tools?next=/api"),
        ("/api", None, None),
        ("/apis/x", None, None),
        ("/admin", None, None),
        ("/tools/../../admin", None, None),
        ("/api/tools/%2e%2e/x", None, None),
    ],
)
def test_allowed_paths_are_counted_from_it(target: str, path: str | None, sent: str | None) -> None:
    """As the endpoints' names are, whichever way the call came."""
    assert read(target, ["/tools"]) == ((path, sent) if path is not None else 403)


@pytest.mark.parametrize(
    ("target", "there"),
    [
        ("/", ("/", "/api/")),
        ("/api", ("/", "/api")),
        ("/api?x=1", ("/?x=1", "/api?x=1")),
        ("/apis", ("/apis", "/api/apis")),
        ("/a/%C3%A9?x=..", ("/a/%C3%A9?x=..", "/api/a/%C3%A9?x=..")),
        ("/../admin", 403),
        ("/api/../admin", 403),
        ("/x/%2e%2e/%2e%2e/admin", 403),
        ("/api/..;/admin", 403),
        ("/..%23x/admin", 403),
        ("/..%3Fx/admin", 403),
        ("/..%00x/admin", 403),
        ("/..%20/admin", 403),
        ("/..%5Cadmin", 403),
        ("/x%2F..%2F..%2Fadmin", 403),
        ("/%25252e%25252e/admin", 403),
        ("/%2525252525252e%2525252525252e/admin", 403),
        ("/%c0%ae%c0%ae/admin", 403),
        ("/%e0%80%ae%e0%80%ae/admin", 403),
        ("/..%c0%afadmin", 403),
        ("/.%e9./admin", 403),
        ("/%ef%bc%8e%ef%bc%8e/admin", 403),
        ("/%e2%80%a5/admin", 403),
        ("/%u002e%u002E/admin", 403),
        ("/..%u005cadmin", 403),
    ],
)
def test_no_call_leads_out_of_it(target: str, there: tuple[str, str] | int) -> None:
    """Another service may be beside it, which only the gateway's address is to protect."""
    assert read(target) == there


@pytest.mark.parametrize("target", ["/tools/x", "/api/tools/x"])
@pytest.mark.parametrize("listed", ["/api/tools", "/tools", "/api/tools/", "/api", "/api/", "/"])
def test_allowed_paths_may_have_it_before_them(listed: str, target: str) -> None:
    """As they had to while the proxy sent each path as it came: a list of then allows the same calls now."""
    assert read(target, [f" {listed} "]) == ("/tools/x", "/api/tools/x")
    if "tools" in listed:
        assert read("/admin", [listed]) == read("/api/admin", [listed]) == read("/api/toolshed", [listed]) == 403


@pytest.mark.parametrize(
    "target",
    [
        "/files/C%23",
        "/files/caf%E9",
        "/%C0%E9/%E0",
        "/files/a%00b",
        "/files/100%25users",
        "/files/100%252525",
        "/files/a%5Cb",
        "/v1..v2/...;x/.hidden/a..%23",
        "/./x",
        "/x?next=../..&y=%2e%2e%2f",
        "/x;..",
    ],
)
def test_what_cannot_lead_out_is_let_through(target: str) -> None:
    """Raw bytes, signs that are decoded elsewhere, and dots that are no segment: as they came."""
    assert read(target) == read(f"/api{target}") == (target, f"/api{target}")


async def test_the_refusal_says_what_could_lead_out(tmp_path: Path) -> None:
    """And the star, which is no path, gets nothing put before it."""
    async with raw_gateway() as gateway, proxied(tmp_path, f"{gateway.url}/api") as running:
        refused = await exchange(proxy_port(running), request("GET", "/%2e%2e/admin"))
        assert refused.first.split(" ")[1] == "403"
        assert b"this path could lead out of the path of GATEWAY_URL" in refused.body
        port = proxy_port(running)
        absolute = request("OPTIONS", f"http://localhost:{port}").replace(
            b"Host: localhost", b"Host: localhost:%d" % port
        )
        for sent in (request("OPTIONS", "*"), absolute):
            assert (await exchange(port, sent)).first.split(" ")[1] == "200"
    assert [asked.first for asked in gateway.asked] == ["OPTIONS * HTTP/1.1"] * 2


def test_no_header_names_another_path() -> None:
    """Some servers take it instead of the target."""
    assert read("/x", headers=[(b"X-Original-URL", b"/admin")]) == 403


def read(
    target: str, paths: list[str] | None = None, headers: list[tuple[bytes, bytes]] | None = None
) -> tuple[str, str] | int:
    """The target as names and rules see it and as it is sent, or the status of the refusal."""
    rules = RequestRules(GATEWAY, [], paths or [], b"me")
    fields = [(b"Host", b"localhost"), *(headers or [])]
    try:
        head = rules.read(b"GET", target.encode(), fields, version="1.1", keep_alive=True)
    except RefusedError as refused:
        return refused.status
    return head.target.decode(), head.upstream_target.decode()


@given(PATHS, PATHS)
def test_what_is_below_is_found_again(path: str, target: str) -> None:
    """A path put before a target is taken off it; the address says nothing else."""
    address = GatewayAddress.of(f"http://gw/{path.partition('?')[0]}")
    below = f"/{target}".encode()
    assert address.below(address.path.encode() + below) == below
    assert GatewayAddress.of(address.url) == address._replace(authority="gw:80")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://gw:3700/api/orders/7", "/orders/{id}"),
        ("http://gw:3700/api", "/"),
        ("http://gw:3700/billing/7", None),
        ("http://gw:3700/apis", None),
        ("http://gw/api/orders/7", None),
        ("http://127.0.0.1:3701/orders/7", "/orders/{id}"),
        ("http://localhost:3701/api/orders/7", "/orders/{id}"),
        ("http://[::1:3700/api", None),
    ],
)
def test_spans_of_agents_name_the_same_endpoints(url: str, endpoint: str | None) -> None:
    """Those of calls to the gateway and to the proxy; what else is at the same host is no call to the gateway."""
    op = read_span(url)
    assert (op.endpoint if op is not None else None) == endpoint


def test_a_span_tells_path_and_query_as_they_are() -> None:
    """No fragment, which is no part of the call; hosts in any case, and with a user, are the same."""
    op = read_span("http://me@GW:3700/api/caf\N{LATIN SMALL LETTER E WITH ACUTE}?q=a/b?c#top")
    assert op is not None
    assert op.input_summary == "/caf\N{LATIN SMALL LETTER E WITH ACUTE}?q=a/b?c"
    assert op.features == {"q": "a/b?c"}


@pytest.mark.parametrize("host", ["elsewhere", "gw:3700/api", ""])
@pytest.mark.parametrize("before", ["/", "/x?q=", "/x#"])
def test_a_long_url_holds_nothing_up(host: str, before: str) -> None:
    """Whatever its length, little of it is read: each copy of such a text would take milliseconds of other calls."""
    urls = GatewayUrls(lambda: ["http://gw:3700/api"])
    urls.called("http://gw:3700/api")
    url = f"http://{host}{before}" + "\N{LATIN SMALL LETTER E WITH ACUTE}" * 2**22
    tracemalloc.start()
    try:
        called = urls.called(url)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (called is not None) == (host == "gw:3700/api")
    assert most < 2**20


def read_span(url: str) -> ObservedOp | None:
    """The op of an HTTP client's span towards *url*; the gateway and its proxy are known."""
    urls = ["http://gw:3700/api", "http://localhost:3701", "http://localhost:3701/api"]
    conventions = SpanConventions(Normalizer(Redactor()), lambda: urls, Templates(), ManualClock(10**18))
    span = Span(trace_id=b"t" * 16, span_id=b"s" * 8, name="GET", kind=Span.SPAN_KIND_CLIENT)
    span.start_time_unix_nano = span.end_time_unix_nano = 10**18
    span.attributes.add(key="url.full").value.string_value = url
    return conventions.op_of(span)


@pytest.mark.parametrize("name", ["GATEWAY_URL", "LAKEHOUSE_URL", "LANGFUSE_FORWARD_URL", "LANGFUSE_PULL_URL"])
@pytest.mark.parametrize(
    ("end", "what"), [("?key=hush", "query"), ("/?", "query"), ("#x", "fragment"), ("/a#", "fragment")]
)
def test_paths_cannot_be_put_behind_a_query(name: str, end: str, what: str) -> None:
    """It is refused instead of being sent as something else; the query, perhaps a credential, is not shown."""
    part = name.removesuffix("URL")
    keys = {f"{part}PUBLIC_KEY": "p", f"{part}SECRET_KEY": "s"} if part.startswith("LANGFUSE") else {}
    message = refusal({name: f"http://there:1{end}", **keys})
    assert message.startswith(f"{name} with a {what} is not usable: the path of each request is put behind the address")
    assert "hush" not in message
    assert Settings.from_env({name: "http://there:1/a/", **keys})
