"""The check of `observer doctor` for the gateway proxy: its port, and whom it exposes the gateway to."""

from __future__ import annotations

import httpx

from sidecar.commands import checks_remote
from sidecar.commands.addresses import place
from sidecar.commands.finding import Finding
from sidecar.settings import Settings
from sidecar.settings_checks import is_loopback

_CHECK = "proxy port"
_PROBE_S = 2.0


async def proxy_port(settings: Settings) -> Finding:
    """Whether the proxy's port is free, or held by an observer's proxy, which answers the probe without a call."""
    host, number = settings.proxy_host, settings.proxy_port
    if number < 0:
        return Finding(_CHECK, "ok", "no gateway proxy: OBSERVER_PROXY_PORT is -1")
    if number and await _is_ours(host, number):
        return Finding(_CHECK, "ok", f"{host}:{number} is held by a proxy of an observer that is running")
    found = await checks_remote.port("proxy", host, number, "")
    if found.status != "ok":
        fix = "Stop what uses it, or choose another with OBSERVER_PROXY_PORT (-1: no proxy); agents must call the same"
        return Finding(_CHECK, found.status, found.found, fix)
    if not is_loopback(host) and not settings.proxy_paths.strip(" ,"):
        what = f"{host}:{number} lets anyone on the network call all of the gateway"
        return Finding(_CHECK, "warn", what, "Name what may be called in OBSERVER_PROXY_PATHS")
    return found


async def _is_ours(host: str, number: int) -> bool:
    try:
        async with httpx.AsyncClient(timeout=_PROBE_S, trust_env=False) as client:
            answer = await client.get(f"http://{place(host, number)}/", headers={"X-Observer-Probe": "1"})
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return False
    return answer.status_code == 204 and "X-Observer-Proxy" in answer.headers
