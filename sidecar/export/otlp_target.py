"""Where OTLP goes and how: what the standard `OTEL_EXPORTER_OTLP_*` variables come to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

_SECONDS_BELOW: Final = 100.0  # milliseconds says the specification, seconds reads the Python SDK


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
        """Host and port, as gRPC wants them; without a port the one that the scheme stands for (4317 without TLS)."""
        parts = urlsplit(self.endpoint)
        host = parts.netloc.rpartition("@")[2]
        return host if parts.port is not None else f"{host.rstrip(':')}:{443 if self.is_tls else 4317}"


def header_pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`key=value,key2=value2`, percent-encoded, as lower-case pairs; entries without `=` are left out.

    Source: OTLP exporter specification, "Specifying headers via environment variables"; W3C Baggage.
    """
    entries = (entry.partition("=") for entry in text.split(","))
    return tuple((unquote(key).strip().lower(), unquote(value).strip()) for key, mark, value in entries if mark)


def timeout_seconds(number: float) -> float:
    """The time-out that *number* means: milliseconds, but seconds where it is too small to be meant so."""
    return number if number < _SECONDS_BELOW else number / 1000
