"""Checks the lists of what requests are compared with: allowed hosts and paths.

An entry that matches nothing is a mistake, and is told. But it stops the observer only where no request would pass:
whatever else works with such a list must go on working. Used by `settings`, which passes the names of the variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from sidecar.errors import SettingsError
from sidecar.settings_checks import can_be_called, is_address, is_host_name, is_plain_path
from sidecar.settings_fields import SettingsFields

_WHY_HOST = "a `Host` is compared by its name alone"
_FIX_HOST = "Write names such as `agent-gateway`, without scheme, port, path or wildcard"
_FIX_NEEDLESS = "Leave it out: localhost and IP addresses always pass"
_WHY_PATH = "the path of a call is compared from its first `/` on, segment by segment"
_FIX_PATH = "Write paths such as `/tools`, without wildcard or `%`: what is below them is allowed too"


def refusing_lists(
    settings: SettingsFields, names: Mapping[str, str], wrong: AbstractSet[str]
) -> Iterator[SettingsError]:
    """Yield an error for each allowed path if no call through the proxy could have any of them.

    Hosts are another matter: whatever is listed, localhost and IP addresses pass. *wrong* fields prove nothing.
    """
    has_proxy = "proxy_port" not in wrong and settings.proxy_port >= 0
    entries = _entries(settings.proxy_paths)
    if has_proxy and not any(map(can_be_called, entries)):
        for entry in entries:
            yield _doubt(names["proxy_paths"], entry, _WHY_PATH, _FIX_PATH)


def doubtful_entries(settings: SettingsFields, names: Mapping[str, str]) -> Iterator[SettingsError]:
    """Yield, for each entry that does not allow what it seems to, what to warn of."""
    for entry in _entries(settings.allowed_hosts):
        if not is_host_name(entry):
            fix = _FIX_NEEDLESS if _passes_anyway(entry) else _FIX_HOST
            yield _doubt(names["allowed_hosts"], entry, _WHY_HOST, fix)
    for entry in _entries(settings.proxy_paths):
        if not is_plain_path(entry):
            yield _doubt(names["proxy_paths"], entry, _WHY_PATH, _FIX_PATH, only_literally=can_be_called(entry))


def _entries(text: str) -> list[str]:
    return [entry for entry in map(str.strip, text.split(",")) if entry]


def _passes_anyway(entry: str) -> bool:
    """Whether *entry* has a port, scheme or path around a host that needs no listing."""
    try:
        host = urlsplit(entry if "//" in entry else f"//{entry}").hostname or ""
    except ValueError:
        return False
    return host == "localhost" or is_address(host)


def _doubt(name: str, entry: str, why: str, fix: str, *, only_literally: bool = False) -> SettingsError:
    what = "matches only what is written exactly so" if only_literally else "never matches"
    return SettingsError(f"{name} has {entry!r}, which {what}", why, fix)
