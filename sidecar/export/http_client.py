"""What the senders over HTTP share: TLS contexts that cost nothing where there is no TLS, and one bounded attempt."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx

from sidecar.export.answers import Answer, unreachable

MOST_ANSWER: Final = 64 * 1024  # bytes of an answer that are read


def tls_context(url: str, certificate: str = "") -> ssl.SSLContext:
    """The context for *url*; *certificate* is a PEM file to verify it with. Raises OSError."""
    if not url.lower().startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used: the public authorities would take memory
    return ssl.create_default_context(cafile=certificate) if certificate else httpx.create_ssl_context()


def attempt(
    client: httpx.Client,
    url: str,
    body: bytes,
    timeout_s: float,
    meaning: Callable[[httpx.Response, bytes], Answer],
    *,
    headers: Mapping[str, str] | None = None,
    most: int = MOST_ANSWER,
) -> Answer:
    """POST *body* once, within *timeout_s* seconds; *meaning* is given the answer and at most *most* bytes of it.

    Never raises for what the other side does.
    """
    deadline = time.monotonic() + timeout_s
    sent = {**(headers or {}), "Content-Length": str(len(body))}
    try:
        # As an iterator: httpx's objects refer to each other, and would keep a body until the collector comes by.
        with client.stream("POST", url, content=iter([body]), headers=sent, timeout=timeout_s) as response:
            return meaning(response, _read_bounded(response, deadline, most))
    except httpx.TransportError as exc:
        return unreachable(f"{type(exc).__name__} {exc}".strip())
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return Answer("refused", f"{type(exc).__name__} {exc}".strip())


def _read_bounded(response: httpx.Response, deadline: float, most: int) -> bytes:
    """The answer's first bytes; an endless or slow one is not waited for, its status has said enough."""
    said = b""
    for chunk in response.iter_bytes():
        said += chunk
        if len(said) > most or time.monotonic() > deadline:
            break
    return said[:most]
