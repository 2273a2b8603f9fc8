"""Checks settings in combination: no loops, no door left open by mistake, nothing half configured.

Used only by `settings`, which passes the variable names to use in messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from urllib.parse import urlsplit

from sidecar.errors import SettingsError
from sidecar.settings_checks import FIX, is_loopback, is_number, is_url, shown_url
from sidecar.settings_fields import SettingsFields
from sidecar.settings_lists import refusing_lists

_PORTS = ("port", "health_port", "grpc_port", "otlp_http_port", "proxy_port")
_URLS = (
    "gateway_url",
    "lakehouse_url",
    "otlp_endpoint",
    "otlp_traces_endpoint",
    "otlp_metrics_endpoint",
    "langfuse_forward_url",
    "langfuse_pull_url",
    "webhook_url",
)
_BASES = ("gateway_url", "lakehouse_url", "langfuse_forward_url", "langfuse_pull_url")
"""Addresses that paths are put behind."""
_OFF = ("sdk_disabled", "traces_exporter", "metrics_exporter")
_OPTIONAL = ("otlp", "langfuse", "webhook")
_NEVER_OURS = {
    "gateway_url": ("it would call itself", "Point GATEWAY_URL at the gateway, and the agents at the proxy"),
    "lakehouse_url": ("it would ask itself instead of a model", "Point LAKEHOUSE_URL at the model"),
    "webhook_url": (
        "each post would become an operation, and a failed one an incident to post again",
        "Give the address of the receiver; `observer incidents` and `/incidents` have the same data",
    ),
    "langfuse_forward_url": ("it would forward to itself", "Give the address of the Langfuse server"),
    "langfuse_pull_url": ("it would read its own data", "Give the address of the Langfuse server"),
}
"""Addresses of others: what would happen if they were one of our doors, and the fix."""


def contradictions(
    settings: SettingsFields, names: Mapping[str, str], wrong: AbstractSet[str]
) -> Iterator[SettingsError]:
    """Yield an error for each contradiction; *names* maps fields to variables. *wrong* fields prove nothing."""
    unusable = {field for field in _URLS if not _is_usable(field, getattr(settings, field))}
    for field in sorted(unusable, key=_URLS.index):
        yield SettingsError(
            f"{names[field]}={shown_url(getattr(settings, field))!r} is not usable",
            "expected an http:// or https:// address with a host",
            FIX,
        )
    for field in _BASES:
        if field not in unusable:
            yield from _plain_base(names[field], getattr(settings, field))
    yield from refusing_lists(settings, names, wrong)
    for part in ("forward", "pull"):
        yield from _half_set(settings, names, f"langfuse_{part}")
    if settings.fsync not in ("always", "never") and not is_number(settings.fsync):
        why = "expected `always`, `never` or seconds above 0"
        yield SettingsError(f"OBSERVER_FSYNC={settings.fsync!r} is not usable", why, FIX)
    if bool(settings.tls_cert) != bool(settings.tls_key):
        why = "OBSERVER_TLS_CERT and OBSERVER_TLS_KEY go together"
        yield SettingsError("TLS is half set", why, "Set both, or neither")
    yield from _shared_ports(settings, names, wrong)
    if "allow_anonymous" not in wrong:
        yield from _exposure(settings)
    if not wrong & {"proxy_port", "proxy_expose"}:
        yield from _proxy_exposure(settings)
    if not wrong & {*_PORTS, *_OFF}:
        yield from _loops(settings, names, unusable)


def _is_usable(field: str, url: str) -> bool:
    return is_url(url) or (not url and field.startswith(_OPTIONAL))


def _plain_base(name: str, url: str) -> Iterator[SettingsError]:
    """Behind a query or a fragment no path can be put."""
    found = re.search("[?#]", url)
    if found is not None:
        yield SettingsError(
            f"{name} with a {'query' if found[0] == '?' else 'fragment'} is not usable",
            "the path of each request is put behind the address",
            f"Leave out `{found[0]}` and what follows it",
        )


def _exposure(settings: SettingsFields) -> Iterator[SettingsError]:
    if is_loopback(settings.host) or settings.token or settings.token_file or settings.allow_anonymous:
        return
    yield SettingsError(
        f"OBSERVER_HOST={settings.host} would let anyone on the network in",
        "it is not a loopback address and no token is set",
        "Set OBSERVER_TOKEN or OBSERVER_TOKEN_FILE, or OBSERVER_ALLOW_ANONYMOUS=true if that is what you want",
    )


def _proxy_exposure(settings: SettingsFields) -> Iterator[SettingsError]:
    if settings.proxy_port < 0 or is_loopback(settings.proxy_host) or settings.proxy_expose:
        return
    yield SettingsError(
        f"OBSERVER_PROXY_HOST={settings.proxy_host} would let anyone on the network reach the gateway",
        "it is not a loopback address, and calls through the proxy need no token of ours",
        "Set OBSERVER_PROXY_EXPOSE=true if that is what you want, and OBSERVER_PROXY_PATHS to what may be called",
    )


def _shared_ports(
    settings: SettingsFields, names: Mapping[str, str], wrong: AbstractSet[str]
) -> Iterator[SettingsError]:
    taken: dict[int, str] = {}
    for field in _PORTS:
        port = getattr(settings, field)
        if field in wrong or port <= 0:
            continue
        if port in taken:
            yield SettingsError(f"{taken[port]} and {names[field]} are both {port}", "each needs its own", "Change one")
        taken[port] = names[field]


def _half_set(settings: SettingsFields, names: Mapping[str, str], part: str) -> Iterator[SettingsError]:
    """A Langfuse URL comes with both keys."""
    fields = [f"{part}_{what}" for what in ("url", "public_key", "secret_key")]
    missing = [names[field] for field in fields if not getattr(settings, field)]
    if 0 < len(missing) < len(fields):
        yield SettingsError(
            f"{names[fields[0]]} is half set",
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing",
            "Set the URL and both keys of the Langfuse project, or none of them",
        )


def _loops(settings: SettingsFields, names: Mapping[str, str], unusable: AbstractSet[str]) -> Iterator[SettingsError]:
    """No address of others is one of our doors: the observer would feed itself."""
    for field, (why, fix) in _NEVER_OURS.items():
        door = "" if field in unusable else _own_door(settings, getattr(settings, field))
        if door:
            yield SettingsError(
                f"{names[field]} is the observer itself ({names[door]}={getattr(settings, door)})", why, fix
            )
    for endpoint in dict.fromkeys((settings.export_endpoint, settings.metrics_endpoint)):
        if is_url(endpoint) and _own_door(settings, endpoint):
            yield SettingsError(
                f"the OTLP endpoint {shown_url(endpoint)} is the observer itself",
                "it would export its spans to its own port",
                "Point OTEL_EXPORTER_OTLP_ENDPOINT at the collector; if it uses that port, set OBSERVER_GRPC_PORT",
            )


def _own_door(settings: SettingsFields, url: str) -> str:
    """The port field of our door to which *url* leads; "" if none."""
    if not url:
        return ""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    own = (settings.host, settings.health_host, settings.proxy_host, "0.0.0.0", "::")  # noqa: S104 - compared only
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not is_loopback(host) and host not in own:
        return ""
    return next((field for field in _PORTS if getattr(settings, field) == port), "")
