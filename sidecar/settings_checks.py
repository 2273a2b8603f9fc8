"""Checks of single values from the environment, for `settings` and `settings_together`."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from sidecar.errors import SettingsError

PREFIX = "OBSERVER_"
FIX = "See the README's settings table"
_NEAR = 0.7  # likeness from which a name is taken for a misspelt one: CYCEL and CYCLE have 0.8
_SERVICE_LINK_NAME = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)*\.?", re.ASCII)
_PATH = re.compile(r"/[^\s%?#\\]*")
_NO_SEGMENTS = frozenset([".", "..", "*", "**"])  # the stars are meant as wildcards
_SERVICE_LINK_VALUE = re.compile(r"^(tcp|udp|sctp)://")


def service_links(env: Mapping[str, str]) -> list[str]:
    """The names among our variables that Kubernetes injected for a Service."""
    return sorted(
        name
        for name, value in env.items()
        if name.startswith(PREFIX) and (_SERVICE_LINK_NAME.search(name) or _SERVICE_LINK_VALUE.match(value))
    )


def not_from_you(links: Sequence[str]) -> SettingsError:
    """What to say of service *links*."""
    return SettingsError(
        f"{', '.join(links)} came from Kubernetes, not from you",
        "a Service whose name begins with `observer` injects such variables into every pod of its namespace",
        "Set `enableServiceLinks: false` in the pod's spec, or give the Service another name",
    )


def unknown(env: Mapping[str, str], known: AbstractSet[str]) -> Iterator[SettingsError]:
    """Yield an error for each name that has our prefix but is not one of the *known* ones."""
    for name in sorted(env):
        if name.startswith(PREFIX) and name not in known:
            nearest = max(sorted(known), key=lambda candidate: _likeness(name, candidate))
            is_near = _likeness(name, nearest) >= _NEAR
            yield SettingsError(
                f"{name} is not a setting", "no setting has that name", f"Did you mean {nearest}?" if is_near else FIX
            )


def all_in_one(found: Sequence[SettingsError]) -> SettingsError:
    """One error that says all that was *found*: at least one."""
    if len(found) == 1:
        return found[0]
    told = " ".join(f"({number}) {each}" for number, each in enumerate(found, 1))
    return SettingsError(f"{len(found)} settings are wrong", told.rstrip("."), "`observer doctor` checks them again")


def _likeness(name: str, candidate: str) -> float:
    """The similarity of two names without our prefix, which people add to settings that have none."""
    short = (name.removeprefix(PREFIX), candidate.removeprefix(PREFIX))
    return difflib.SequenceMatcher(None, *short).ratio()


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


def is_address(text: str) -> bool:
    """Whether *text* is an IP address, perhaps in brackets."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def is_host_name(text: str) -> bool:
    """Whether *text* is a name or address as a `Host` has it, without port."""
    return is_address(text) or _HOST_NAME.fullmatch(text) is not None


def can_be_called(path: str) -> bool:
    """Whether a call can have *path* exactly as it is written: it needs no decoding and leads nowhere else."""
    return _PATH.fullmatch(path) is not None and _NO_SEGMENTS.isdisjoint(path.split("/"))


def is_plain_path(text: str) -> bool:
    """Whether *text* is such a path, and does not look like a pattern or like what clients would encode."""
    return can_be_called(text) and text.isascii() and "*" not in text


def is_url(url: str) -> bool:
    """Whether *url* is an HTTP URL with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def shown_url(url: str) -> str:
    """*url* without user info, which may contain a password."""
    _, mark, rest = url.rpartition("@")
    return f"…@{rest}" if mark else rest
