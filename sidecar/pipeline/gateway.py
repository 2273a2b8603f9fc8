"""Builds all that talks to the gateway: clients, wrapper for Python agents, proxy, check at start.

agent ──► wrapper, proxy ──► gateway
analysis ──► outbox ──► gateway /log
"""

from __future__ import annotations

import httpx

from sidecar.errors import StartError
from sidecar.export.http_client import tls_context
from sidecar.gateway.observed_gateway import ObservedGateway
from sidecar.gateway_address import GatewayAddress
from sidecar.normalize import Normalizer
from sidecar.pipeline.proxy import gateway_proxy
from sidecar.protocols import CallSpans, Clock
from sidecar.settings import Settings

_LOOK_S = 5.0  # time that the gateway may take to answer


class Clients:
    """`agents` carries agents' calls, `own` the observer's requests, so that neither can block the other.

    Gateway and model run beside us, so proxy variables of the environment do not apply.
    """

    def __init__(self, settings: Settings) -> None:
        urls = (settings.gateway_url, settings.lakehouse_url, settings.webhook_url)
        tls = tls_context(next((url for url in urls if url.lower().startswith("https:")), ""))
        unbounded = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self.agents = httpx.AsyncClient(trust_env=False, verify=tls, timeout=settings.gateway_timeout, limits=unbounded)
        self.own = httpx.AsyncClient(trust_env=False, verify=tls, limits=httpx.Limits(max_connections=10))

    async def close(self) -> None:
        """Close their connections."""
        await self.agents.aclose()
        await self.own.aclose()


class Gateway:
    """`wrapper` is for Python agents in this process, `proxy`, if it is on, for all others."""

    def __init__(self, settings: Settings, spans: CallSpans, normalizer: Normalizer, clock: Clock) -> None:
        self._url = settings.gateway_url
        self._clean = normalizer.text
        self.clients = Clients(settings)
        self.wrapper = ObservedGateway(
            self._url, self.clients.agents, spans, normalizer, clock, timeout_s=settings.gateway_timeout
        )
        self.proxy = gateway_proxy(settings, spans, normalizer, clock)

    def urls(self) -> list[str]:
        """The URLs that agents call; the proxy's port is known once it has started. It is called in two ways."""
        if self.proxy is None:
            return [self._url]
        proxy = f"http://localhost:{self.proxy.port}"
        return [self._url, proxy, proxy + GatewayAddress.of(self._url).path]

    async def require(self) -> None:
        """Return if the gateway is healthy. Raises StartError, with a redacted text."""
        url = f"{self._url.rstrip('/')}/health"
        try:
            response = await self.clients.own.get(url, timeout=_LOOK_S)
            response.raise_for_status()
        except httpx.HTTPError as exc:
            raise StartError(
                "the gateway does not answer",
                self._clean(f"GET {url}: {exc or type(exc).__name__}"),
                "Start the gateway first, or leave OBSERVER_REQUIRE_GATEWAY unset",
            ) from exc
