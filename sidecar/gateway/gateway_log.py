"""Tells the gateway what the observer learnt: `POST {GATEWAY_URL}/log`. These posts are not ops."""

from __future__ import annotations

import asyncio

import httpx
import msgspec

from sidecar.errors import GatewayLogError

_FIX = "It is tried again in the next cycle; look at the gateway behind GATEWAY_URL"


class HttpGatewayLog:
    """A `GatewayLog` over *client*. One attempt a call, of at most *timeout_s* seconds; the caller tries again."""

    def __init__(self, client: httpx.AsyncClient, gateway_url: str, timeout_s: float = 5.0) -> None:
        self._client = client
        self._url = gateway_url.rstrip("/") + "/log"
        self._timeout_s = timeout_s

    async def post(self, key: str, entry: dict[str, str]) -> None:
        """Send *entry* as JSON with *key* as its `Idempotency-Key`. Raises GatewayLogError unless answered 2xx."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        content = msgspec.json.encode(entry)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    "POST", self._url, content=content, headers=headers, timeout=self._timeout_s
                ) as response,
            ):
                status = response.status_code  # the body says nothing more and may be endless: it is not read
        except TimeoutError as exc:
            raise GatewayLogError("the gateway took no post", f"no answer in {self._timeout_s:g} s", _FIX) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise GatewayLogError("the gateway took no post", f"{type(exc).__name__} {exc}".strip(), _FIX) from exc
        if not 200 <= status < 300:
            raise GatewayLogError("the gateway took no post", f"HTTP status {status}", _FIX)
