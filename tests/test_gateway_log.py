"""The gateway's log gets each post as it is; whatever it answers but 2xx may be tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from sidecar.errors import GatewayLogError, RetryableError
from sidecar.gateway.gateway_log import HttpGatewayLog
from tests.http_stub import HttpStub

ENTRY = {"operation": "error_analysis: 1 failures", "approach": "a", "result": "ö ×", "context": "c"}


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
    await HttpGatewayLog(client, gateway.url + "/").post("key-1", ENTRY)
    (request,) = gateway.requests
    assert request.line == "POST /log HTTP/1.1"
    assert request.json() == ENTRY
    assert (request.headers["idempotency-key"], request.headers["content-type"]) == ("key-1", "application/json")


@pytest.mark.parametrize("status", [302, 400, 404, 429, 500, 503])
async def test_any_other_status_is_a_failure(gateway: HttpStub, client: httpx.AsyncClient, status: int) -> None:
    """The caller tries again later."""
    gateway.status = status
    with pytest.raises(GatewayLogError, match=f"status {status}") as caught:
        await HttpGatewayLog(client, gateway.url).post("key-1", ENTRY)
    assert isinstance(caught.value, RetryableError)


async def test_a_gateway_that_never_answers_is_left_after_the_time_out(
    gateway: HttpStub, client: httpx.AsyncClient
) -> None:
    """A silence is a failure like any other."""
    gateway.body = None
    with pytest.raises(GatewayLogError, match="no answer"):
        await HttpGatewayLog(client, gateway.url, timeout_s=0.05).post("key-1", ENTRY)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[bad"])
async def test_a_gateway_that_is_not_there_is_a_failure(client: httpx.AsyncClient, url: str) -> None:
    """Nobody listening and an address that is none are alike."""
    with pytest.raises(GatewayLogError):
        await HttpGatewayLog(client, url).post("key-1", ENTRY)


async def test_a_huge_answer_is_not_read(gateway: HttpStub, client: httpx.AsyncClient) -> None:
    """The status is all that counts."""
    gateway.body = b"x" * 50_000_000
    await HttpGatewayLog(client, gateway.url).post("key-1", ENTRY)
