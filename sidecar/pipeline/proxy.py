"""Builds the gateway proxy."""

from __future__ import annotations

from sidecar.gateway.gateway_proxy import GatewayProxy
from sidecar.gateway.proxy_advice import ProxyAdvice
from sidecar.gateway.proxy_parts import ProxyLimits
from sidecar.metrics import OwnMetrics
from sidecar.normalize import Normalizer
from sidecar.protocols import AdviceSource, CallSpans, Clock
from sidecar.settings import Settings

_ADVICE_S = 0.05  # time that a call may wait for advice to the gateway
_KEEP_ALIVE_S = 300.0  # longer than clients use, so that it is not us who close first


def gateway_proxy(settings: Settings, spans: CallSpans, normalizer: Normalizer, clock: Clock) -> GatewayProxy | None:
    """The proxy according to *settings*; None if it is turned off."""
    if settings.proxy_port < 0:
        return None
    return GatewayProxy(
        settings.gateway_url,
        spans,
        normalizer,
        clock,
        host=settings.proxy_host,
        port=settings.proxy_port,
        limits=ProxyLimits(
            head_s=settings.body_timeout,
            first_byte_s=settings.proxy_first_byte_timeout,
            idle_s=settings.proxy_idle_timeout,
            keep_alive_s=_KEEP_ALIVE_S,
        ),
        connect_timeout_s=settings.proxy_connect_timeout,
        grace_s=settings.grace,
        allowed_hosts=settings.allowed_hosts.split(","),
        paths=settings.proxy_paths.split(","),
    )


def advise(proxy: GatewayProxy | None, settings: Settings, advisor: AdviceSource) -> None:
    """Turn on advice for calls through *proxy*, according to *settings*. Call before it starts."""
    if proxy is not None and settings.proxy_advice != "none":
        proxy.advice = ProxyAdvice(
            advisor,
            proxy.recorder.asked,
            to_gateway=settings.proxy_advice in ("gateway", "both"),
            to_agent=settings.proxy_advice in ("agent", "both"),
            within_s=_ADVICE_S,
        )


def register(metrics: OwnMetrics, proxy: GatewayProxy | None) -> None:
    """Register the proxy's counters, if it is on, as *metrics*."""
    if proxy is None:
        return
    count, level = metrics.observe_count, metrics.observe_level
    recorder, agents = proxy.recorder, proxy.agents
    count("observer.proxy.calls", "{call}", "Calls that went through the proxy", lambda: recorder.calls)
    count("observer.proxy.failures", "{call}", "Calls that failed", lambda: recorder.failures)
    count("observer.proxy.unread", "{call}", "Calls whose bodies were not read", lambda: recorder.unread)
    count(
        "observer.proxy.uncaptured", "{body}", "Bodies not captured for lack of room", lambda: recorder.budget.refused
    )
    count("observer.proxy.refused", "{request}", "Refused by the proxy itself", lambda: dict(agents.refused), "status")
    count(
        "observer.proxy.unadvised",
        "{call}",
        "Calls without advice because it was late or failed",
        lambda: proxy.advice.late + proxy.advice.failures if proxy.advice is not None else 0,
    )
    level("observer.proxy.agents", "{connection}", "Open connections of agents", lambda: len(agents.connections))
    level("observer.proxy.upstream", "{connection}", "Connections to the gateway", lambda: proxy.upstream_connections)
