"""What the senders over HTTP share: TLS contexts that cost nothing where there is no TLS, and bounded answers."""

from __future__ import annotations

import ssl
import time
from typing import Final

import httpx

MOST_ANSWER: Final = 64 * 1024  # bytes of an answer that are read


def tls_context(url: str, certificate: str = "") -> ssl.SSLContext:
    """The context for *url*; *certificate* is a PEM file to verify it with. Raises OSError."""
    if not url.lower().startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used: the public authorities would take memory
    return ssl.create_default_context(cafile=certificate) if certificate else httpx.create_ssl_context()


def read_bounded(response: httpx.Response, deadline: float, most: int = MOST_ANSWER) -> bytes:
    """The answer's first bytes; an endless or slow one is not waited for, its status has said enough."""
    said = b""
    for chunk in response.iter_bytes():
        said += chunk
        if len(said) > most or time.monotonic() > deadline:
            break
    return said[:most]
