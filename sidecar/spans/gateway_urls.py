"""Tells whether a URL is one that agents call, the gateway's or the proxy's, and which path and query it has there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from sidecar.gateway_address import GatewayAddress

_LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1", "[::1]"])
_ORIGIN = re.compile("[^/?#]*//[^/?#]*")
_MOST_ORIGIN = 1024  # characters: a host has 255 at most
_MOST_TARGET = 65_536  # characters that are read, as many as the proxy takes of a whole request's head
_ORIGINS_KEPT = 256


class Called(NamedTuple):
    """What a URL calls at the gateway: the *path* counted from that of the gateway, and the *query*, "" if none."""

    path: str
    query: str


class GatewayUrls:
    """*given*, called once, returns the URLs; the proxy's is known only when it has started."""

    def __init__(self, given: Callable[[], Iterable[str]]) -> None:
        self._given = given
        self._at = lru_cache(maxsize=_ORIGINS_KEPT)(self._addresses_at)  # agents call few hosts

    def called(self, url: Any) -> Called | None:
        """What *url* calls; None if it does not lead to the gateway. A very long one is read from its beginning.

        Host and port are compared before anything else is read, and all loopback hosts are one: most spans of HTTP
        clients are of calls to others.
        """
        origin = _ORIGIN.match(url[:_MOST_ORIGIN]) if isinstance(url, str) else None
        addresses = self._at(origin[0]) if origin is not None else ()
        if not addresses or origin is None:
            return None
        target, _, _ = url[origin.end() : origin.end() + _MOST_TARGET].partition("#")
        path, _, query = target.partition("?")
        raw = path.encode("utf-8", "replace")
        below = next((found for each in addresses if (found := each.below(raw)) is not None), None)
        return Called(below.decode(), query) if below is not None else None

    def _addresses_at(self, origin: str) -> tuple[GatewayAddress, ...]:
        """Those of ours with the host and port of *origin*, those with the longest path first."""
        try:
            there = GatewayAddress.of(origin)
        except ValueError:
            return ()
        return tuple(each for each in self._addresses if there.host and _place(each) == _place(there))

    @cached_property
    def _addresses(self) -> list[GatewayAddress]:
        return sorted(map(GatewayAddress.of, self._given()), key=lambda each: -len(each.path))


def _place(address: GatewayAddress) -> str:
    """Host and port, with one name for all loopback hosts."""
    return f"{'localhost' if address.host in _LOOPBACK else address.host}:{address.port}"
