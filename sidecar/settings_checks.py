"""Checks of single values from the environment, for `settings` and `settings_together`."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from sidecar.errors import SettingsError

PREFIX = "OBSERVER_"
FIX = "See the README's settings table"
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_LINK_VALUE = re.compile(r"^(tcp|udp|sctp)://")


def refuse_service_links(env: Mapping[str, str]) -> None:
    """Raise SettingsError if Kubernetes service links appear among our variables."""
    links = sorted(
        name
        for name, value in env.items()
        if name.startswith(PREFIX) and (_SERVICE_LINK_NAME.search(name) or _SERVICE_LINK_VALUE.match(value))
    )
    if links:
        raise SettingsError(
            f"{', '.join(links)} came from Kubernetes, not from you",
            "a Service whose name begins with `observer` injects such variables into every pod of its namespace",
            "Set `enableServiceLinks: false` in the pod's spec, or give the Service another name",
        )


def refuse_unknown(env: Mapping[str, str], known: AbstractSet[str]) -> None:
    """Raise SettingsError if a name has our prefix but is not one of the *known* ones."""
    for name in sorted(env):
        if name.startswith(PREFIX) and name not in known:
            nearest = max(sorted(known), key=lambda candidate: _likeness(name, candidate))
            raise SettingsError(f"{name} is not a setting", "no setting has that name", f"Did you mean {nearest}?")


def _likeness(name: str, candidate: str) -> float:
    """The similarity of two names, with and without our prefix: people add it to settings that have none."""
    spelled = (name, name.removeprefix(PREFIX))
    return max(difflib.SequenceMatcher(None, text, candidate).ratio() for text in spelled)


def is_number(text: str) -> bool:
    """Whether *text* is a finite number above 0."""
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    """Whether *host* (a name or an address) is this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_url(name: str, url: str, *, optional: bool) -> None:
    """Raise SettingsError unless *url*, the value of *name*, is an HTTP URL with a host."""
    if optional and not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(
            f"{name}={shown_url(url)!r} is not usable", "expected an http:// or https:// address with a host", FIX
        )


def shown_url(url: str) -> str:
    """*url* without user info, which may contain a password."""
    _, mark, rest = url.rpartition("@")
    return f"…@{rest}" if mark else rest
