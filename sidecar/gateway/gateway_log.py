"""Posts what the observer has learnt to the gateway, as `POST {GATEWAY_URL}/log`. These posts are not ops."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import httpx
import structlog

from sidecar.errors import GatewayLogError, NotOfferedError, PostRefusedError
from sidecar.protocols import Clock
from sidecar.retry_after import asked_seconds

log = structlog.get_logger(__name__)

_RETRYABLE = frozenset({408, 425, 429})
_NOT_OFFERED = frozenset({404, 405, 501})


class _Peer(NamedTuple):
    """The receiver of posts, and the setting that holds its address."""

    name: str
    setting: str

    @property
    def not_taken(self) -> str:
        return f"{self.name} did not accept a post"

    @property
    def fix(self) -> str:
        return f"It is retried; check {self.name} at {self.setting}"


class HttpGatewayLog:
    """A `GatewayLog` over HTTP. Each `post` is one attempt of at most *timeout_s* seconds; the caller retries."""

    def __init__(self, client: httpx.AsyncClient, gateway_url: str, clock: Clock, timeout_s: float = 5.0) -> None:
        self._client = client
        self._gateway_url = gateway_url.rstrip("/")
        self._peer = _Peer("the gateway", "GATEWAY_URL")
        self._clock = clock
        self._timeout_s = timeout_s
        self._told = False  # that the gateway has no log

    async def post(self, key: str, path: str, body: bytes) -> None:
        """Send *body* (JSON) with *key* as its `Idempotency-Key`.

        Raises PostRefusedError on 4xx other than 408, 425 and 429 (NotOfferedError if the gateway has no log), and
        GatewayLogError on any other failure to get a 2xx.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        url = self._address(path)
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", url, content=body, headers=headers, timeout=self._timeout_s) as response,
            ):
                status = response.status_code  # the body is not needed and may be endless: it is not read
                retry_after = response.headers.get("retry-after", "")
        except TimeoutError as exc:
            raise GatewayLogError(self._peer.not_taken, f"no answer in {self._timeout_s:g} s", self._peer.fix) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise GatewayLogError(self._peer.not_taken, f"{type(exc).__name__} {exc}".strip(), self._peer.fix) from exc
        self._require_offered(status, path)
        if 400 <= status < 500 and status not in _RETRYABLE:
            raise PostRefusedError(
                f"{self._peer.name} refused a post", f"HTTP status {status}", "See it with `observer outbox list`"
            )
        if not 200 <= status < 300:
            wait_s = asked_seconds(retry_after, self._clock.time_ns())
            raise GatewayLogError(self._peer.not_taken, f"HTTP status {status}", self._peer.fix, wait_s)

    def _address(self, path: str) -> str:
        return self._gateway_url + path

    def _require_offered(self, status: int, path: str) -> None:
        if status not in _NOT_OFFERED:
            return
        fix = "Set OBSERVER_GATEWAY_LOG=false if the gateway shall get no posts"
        if not self._told:
            self._told = True
            log.info("gateway.log_not_offered", status=status, path=path, fix=fix)
        raise NotOfferedError(f"{self._peer.name} does not offer {path}", f"HTTP status {status}", fix)


class HttpWebhook(HttpGatewayLog):
    """Posts to one fixed *url*; the path that the outbox holds is ignored."""

    def __init__(self, client: httpx.AsyncClient, url: str, clock: Clock, timeout_s: float = 5.0) -> None:
        super().__init__(client, url, clock, timeout_s)
        self._url = url
        self._peer = _Peer("the webhook", "OBSERVER_WEBHOOK_URL")

    def _address(self, _path: str) -> str:
        return self._url

    def _require_offered(self, status: int, path: str) -> None:
        """A webhook was asked for, so that one that is missing is a failure like others."""
