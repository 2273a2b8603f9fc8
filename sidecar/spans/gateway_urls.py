"""Tells whether a URL is one that agents call, the gateway's or the proxy's, and which path it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from sidecar.gateway_address import GatewayAddress

_LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1", "[::1]"])


class GatewayUrls:
    """*given*, called once, returns the URLs; the proxy's is known only when it has started."""

    def __init__(self, given: Callable[[], Iterable[str]]) -> None:
        self._given = given

    def path_of(self, url: Any) -> str | None:
        """The path of *url* counted from that of the gateway; None if *url* does not lead there.

        Otherwise only host and port are compared, and all loopback hosts are one.
        """
        if not isinstance(url, str):
            return None
        try:
            called = GatewayAddress.of(url)
            path = urlsplit(url).path.encode()
        except ValueError:
            return None
        below = (each.below(path) for each in self._addresses.get(_place(called), ()))
        found = next((each for each in below if each is not None), None) if called.host else None
        return found.decode() if found is not None else None

    @cached_property
    def _addresses(self) -> dict[str, list[GatewayAddress]]:
        """By place, those with the longest path first."""
        given = sorted(map(GatewayAddress.of, self._given()), key=lambda each: -len(each.path))
        return {_place(each): [other for other in given if _place(other) == _place(each)] for each in given}


def _place(address: GatewayAddress) -> str:
    """Host and port, with one name for all loopback hosts."""
    return f"{'localhost' if address.host in _LOOPBACK else address.host}:{address.port}"
