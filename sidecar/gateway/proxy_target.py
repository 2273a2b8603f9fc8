"""Checks whom a request is for, and where it goes: target and `Host`.

Source: RFC 9112, 3.2 (request targets) and RFC 9110, 7.4 (misdirected requests).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sidecar.gateway.proxy_paths import AllowedPaths
from sidecar.gateway.proxy_refusal import RefusedError
from sidecar.gateway_address import GatewayAddress

_MOST_KNOWN_HOSTS = 256
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?]*)(.*)", re.DOTALL)
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]@/\\\s]+))(?::\d{0,5})?")


class Target(NamedTuple):
    """A request target: *path* as all names and rules see it, counted from the gateway's own; *sent* to the gateway."""

    path: bytes
    sent: bytes


class TargetRules:
    """Checks targets and hosts. *allowed_hosts* (lower case) are names of the proxy, *paths* the allowed prefixes.

    Listed paths, like targets, may have the gateway's own before them or not: both mean the same.
    """

    def __init__(self, gateway: GatewayAddress, allowed_hosts: Iterable[str], paths: Iterable[str]) -> None:
        self._names = frozenset(allowed_hosts) | ({"localhost", gateway.host.lower().rstrip(".")} - {""})
        self._gateway = gateway
        self._prefix = gateway.path.encode()
        listed = [path.strip().encode() for path in paths if path.strip()]
        self._paths = AllowedPaths([gateway.below(path) or path for path in listed], within=gateway.path)
        self._known_hosts: set[bytes] = set()
        self.port = 0
        """Where the proxy listens, once it does: an absolute target may name it."""

    def read(self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Target:
        """The target of a request with *headers*. Raises RefusedError."""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            target = self._path_of(method, absolute[1], absolute[2], headers)
        if method == b"CONNECT":
            raise RefusedError(501, "Not Implemented", "this proxy opens no tunnels: it serves one gateway only")
        if not target.startswith(b"/") and not (target == b"*" and method == b"OPTIONS"):
            raise RefusedError(400, "Bad Request", "the target must be a path: this proxy serves one gateway only")
        if b"#" in target:
            raise RefusedError(400, "Bad Request", "the target has a fragment, which is for the sender alone")
        below = self._gateway.below(target) if self._prefix else None
        path = target if below is None else below
        self._paths.check(path, headers)
        return Target(path, target if below is not None or target == b"*" else self._prefix + target)

    def check_host(self, hosts: list[bytes], *, http10: bool) -> None:
        """Check the header fields *hosts* of a request. Raises RefusedError."""
        if len(hosts) > 1 or (not hosts and not http10):
            raise RefusedError(400, "Bad Request", "a request must have exactly one Host header")
        if hosts and hosts[0] not in self._known_hosts:
            if not self._is_known(hosts[0].strip()):
                raise RefusedError(
                    421, "Misdirected Request", "this Host is not served here: name it in OBSERVER_ALLOWED_HOSTS"
                )
            if len(self._known_hosts) < _MOST_KNOWN_HOSTS:
                self._known_hosts.add(hosts[0])

    def _path_of(self, method: bytes, authority: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The path of an absolute target. Raises RefusedError unless its *authority*, and `Host`, is this proxy.

        Another address could be meant for another server, whatever its name: agents with a proxy for all calls send
        such targets, and what they send must not reach this gateway instead. Source: RFC 9112, 3.2.2.
        """
        hosts = [value.strip().lower() for name, value in headers if name.lower() == b"host"]
        if not self._is_here(authority) or any(host != authority.lower() for host in hosts):
            raise RefusedError(
                400, "Bad Request", "the target names another server: this proxy serves one gateway only"
            )
        if not path:
            return b"*" if method == b"OPTIONS" else b"/"
        return path if path.startswith(b"/") else b"/" + path

    def _is_here(self, authority: bytes) -> bool:
        found = _HOST.fullmatch(authority)
        if found is None or not authority.endswith(b":%d" % self.port):
            return False
        name = (found[1] or found[2]).decode("latin-1").lower().rstrip(".")
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name in self._names

    def _is_known(self, host: bytes) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = (found[1] or found[2]).decode("latin-1").lower().rstrip(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True
