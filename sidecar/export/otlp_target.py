"""An OTLP destination, as the standard `OTEL_EXPORTER_OTLP_*` variables describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

_SECONDS_BELOW: Final = 100.0  # the specification says milliseconds, the Python SDK reads seconds

DIRECT: Final = (("grpc.enable_http_proxy", 0),)
"""Options of a gRPC channel that keep `http_proxy` from coming between: it is meant for the outside."""


@dataclass(frozen=True, slots=True)
class OtlpTarget:
    """*endpoint* with scheme; over HTTP it is the whole URL. *timeout_s* bounds one attempt; paths are PEM files."""

    endpoint: str
    protocol: Literal["grpc", "http/protobuf"]
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0
    gzip: bool = False
    certificate: str = ""
    client_key: str = ""
    client_certificate: str = ""

    @property
    def is_tls(self) -> bool:
        """Whether the scheme asks for TLS."""
        return urlsplit(self.endpoint).scheme == "https"

    @property
    def authority(self) -> str:
        """Host and port in gRPC's form; without a port the scheme's default (443 with TLS, 4317 without)."""
        parts = urlsplit(self.endpoint)
        host = parts.netloc.rpartition("@")[2]
        return host if parts.port is not None else f"{host.rstrip(':')}:{443 if self.is_tls else 4317}"


def header_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """Parse `key=value,key2=value2` (percent-encoded) into pairs with lower-case keys; entries without `=` are skipped.

    Source: OTLP exporter specification, "Specifying headers via environment variables"; W3C Baggage.
    """
    entries = (entry.partition("=") for entry in text.split(","))
    return tuple((unquote(key).strip().lower(), unquote(value).strip()) for key, mark, value in entries if mark)


def timeout_seconds(number: float) -> float:
    """The time-out in seconds: *number* is in milliseconds, unless it is so small that seconds must be meant."""
    return number if number < _SECONDS_BELOW else number / 1000
