"""Tells whether a URL is one that agents call: the gateway's or the proxy's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

_LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1", "[::1]"])
_PORTS = {"http": 80, "https": 443}


class GatewayUrls:
    """*given*, called once, returns the URLs; the proxy's is known only when it has started."""

    def __init__(self, given: Callable[[], Iterable[str]]) -> None:
        self._given = given

    def has(self, url: Any) -> bool:
        """Whether *url* leads there. Only host and port are compared, and all loopback hosts are one."""
        return isinstance(url, str) and _place(url) in self._places

    @cached_property
    def _places(self) -> frozenset[str]:
        return frozenset(filter(None, map(_place, self._given())))


def _place(url: str) -> str:
    """Host and port of *url*, with one name for all loopback hosts; "" if it has no host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return ""
    return f"{'localhost' if host in _LOOPBACK else host}:{port}" if host else ""
