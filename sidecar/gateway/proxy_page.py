"""Checks which web pages may call the gateway through a visitor's browser: the proxy's own, and those of allowed hosts.

A browser sends a simple POST to any address it can reach, loopback included, for any page. It tells which page asks:
in `Origin` (RFC 6454, 7), or in `Sec-Fetch-Site` if it sends no `Origin`, as for an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from sidecar.gateway.proxy_refusal import RefusedError

_OWN_SITES: Final = frozenset([b"same-origin", b"none"])
_FOREIGN: Final = RefusedError(
    403, "Forbidden", "web pages of other origins have no access: to allow one, name its host in OBSERVER_ALLOWED_HOSTS"
)


class PageRules:
    """Pages of the requested `Host` may call, and pages of *allowed_hosts* (lower case)."""

    def __init__(self, allowed_hosts: Iterable[str]) -> None:
        self._allowed = frozenset(allowed_hosts)

    def check(self, origins: Sequence[bytes], sites: Sequence[bytes], hosts: Sequence[bytes]) -> None:
        """Check the values of a request's `Origin`, `Sec-Fetch-Site` and `Host`. Raises RefusedError."""
        if origins:
            if not all(self._is_own(origin, hosts) for origin in origins):
                raise _FOREIGN
        elif not _OWN_SITES.issuperset(sites):
            raise _FOREIGN

    def _is_own(self, origin: bytes, hosts: Sequence[bytes]) -> bool:
        try:
            page = urlsplit(origin.decode("latin-1").strip().lower())
            called = [host.decode("latin-1").strip().lower() for host in hosts]
            return bool(page.netloc) and (page.netloc in called or (page.hostname or "").rstrip(".") in self._allowed)
        except ValueError:
            return False
