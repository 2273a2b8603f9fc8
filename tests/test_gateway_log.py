"""The gateway's log gets each post as it is; whatever it answers but 2xx may be tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from structlog.testing import capture_logs

from sidecar.errors import GatewayLogError, NotOfferedError, PostRefusedError, RetryableError
from sidecar.gateway.gateway_log import HttpGatewayLog, HttpWebhook
from tests.fakes import ManualClock
from tests.http_stub import HttpStub
from tests.observers import Answer, stand_in

ENTRY = {"operation": "error_analysis: 1 failures", "approach": "a", "result": "ö ×", "context": "c"}
BODY = msgspec.json.encode(ENTRY)


def sender(client: httpx.AsyncClient, url: str, timeout_s: float = 5.0) -> HttpGatewayLog:
    return HttpGatewayLog(client, url, ManualClock(784_111_700 * 10**9), timeout_s)


@pytest.fixture
async def gateway() -> AsyncIterator[HttpStub]:
    async with HttpStub.running() as stub:
        yield stub


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient() as opened:
        yield opened


@pytest.mark.parametrize("status", [200, 201, 299])
async def test_an_entry_is_posted_with_its_key(gateway: HttpStub, client: httpx.AsyncClient, status: int) -> None:
    """JSON as given, to `/log`, with the idempotency key; the answer's body does not matter."""
    gateway.status, gateway.body = status, b"not json"
    await sender(client, gateway.url + "/").post("key-1", "/log", BODY)
    (request,) = gateway.requests
    assert request.line == "POST /log HTTP/1.1"
    assert request.json() == ENTRY
    assert (request.headers["idempotency-key"], request.headers["content-type"]) == ("key-1", "application/json")


@pytest.mark.parametrize("status", [302, 408, 425, 429, 500, 503])
async def test_a_status_that_may_change_is_a_failure(gateway: HttpStub, client: httpx.AsyncClient, status: int) -> None:
    """The caller tries again later."""
    gateway.status = status
    with pytest.raises(GatewayLogError, match=f"status {status}") as caught:
        await sender(client, gateway.url).post("key-1", "/log", BODY)
    assert isinstance(caught.value, RetryableError)
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize("status", [400, 401, 404, 410, 413, 422])
async def test_a_refusal_is_for_good(gateway: HttpStub, client: httpx.AsyncClient, status: int) -> None:
    """The same post would be refused again."""
    gateway.status = status
    with pytest.raises(PostRefusedError, match=f"status {status}") as caught:
        await sender(client, gateway.url).post("key-1", "/log", BODY)
    assert not isinstance(caught.value, RetryableError)


@pytest.mark.parametrize(
    ("said", "wait_s"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("9" * 5000, float("inf")),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 77.0),  # the clock shows 08:48:20
        ("Sun, 06 Nov 1994 08:48:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("Sun, 99 Nov 1994", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_when_to_come_again_is_told(
    client: httpx.AsyncClient, said: str, wait_s: float | None, status: int
) -> None:
    """Seconds or an HTTP date; what is neither is passed over."""
    async with stand_in() as gateway:
        gateway.answers["/log"] = Answer(status, b"", ((b"retry-after", said.encode()),))
        with pytest.raises(GatewayLogError) as caught:
            await sender(client, gateway.url).post("key-1", "/log", BODY)
    assert caught.value.retry_after_s == wait_s


async def test_a_gateway_that_never_answers_is_left_after_the_time_out(
    gateway: HttpStub, client: httpx.AsyncClient
) -> None:
    """A silence is a failure like any other."""
    gateway.body = None
    with pytest.raises(GatewayLogError, match="no answer"):
        await sender(client, gateway.url, 0.05).post("key-1", "/log", BODY)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[bad"])
async def test_a_gateway_that_is_not_there_is_a_failure(client: httpx.AsyncClient, url: str) -> None:
    """Nobody listening and an address that is none are alike."""
    with pytest.raises(GatewayLogError):
        await sender(client, url).post("key-1", "/log", BODY)


async def test_an_answer_is_not_read(gateway: HttpStub, client: httpx.AsyncClient) -> None:
    """The status is all that counts: a body that never ends fails no post."""
    gateway.held_back = 50_000_000
    await sender(client, gateway.url).post("key-1", "/log", BODY)
    assert len(gateway.requests) == 1


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_gateway_without_a_log_is_told_of_once(
    gateway: HttpStub, client: httpx.AsyncClient, status: int
) -> None:
    """Each post is refused for good; one line names the setting that turns the posts off."""
    gateway.status = status
    posts = sender(client, gateway.url)
    with capture_logs() as logs:
        for key in ("key-1", "key-2"):
            with pytest.raises(NotOfferedError, match=f"status {status}"):
                await posts.post(key, "/log", BODY)
    (line,) = logs
    assert (line["event"], line["log_level"], line["status"]) == ("gateway.log_not_offered", "info", status)
    assert "OBSERVER_GATEWAY_LOG=false" in line["fix"]


async def test_a_missing_webhook_is_a_failure(gateway: HttpStub, client: httpx.AsyncClient) -> None:
    """It was asked for: a refusal is not one of a gateway that has no log."""
    gateway.status = 404
    with capture_logs() as logs, pytest.raises(PostRefusedError) as caught:
        await HttpWebhook(client, gateway.url, ManualClock()).post("key-1", "webhook", BODY)
    assert not isinstance(caught.value, NotOfferedError)
    assert logs == []
