"""Shared by all HTTP senders: TLS contexts that cost no memory for plain HTTP, and one bounded attempt to POST."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx

from sidecar.export.answers import Answer, unreachable

MOST_ANSWER: Final = 64 * 1024  # bytes read of a response


def tls_context(url: str, certificate: str = "") -> ssl.SSLContext:
    """The TLS context for *url*; *certificate* is a PEM file to verify the server with. Raises OSError."""
    if not url.lower().startswith("https:"):
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used; loading the CA bundle would cost memory
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
    """POST *body* once, within *timeout_s* seconds. *meaning* gets the response and at most *most* bytes of its body.

    Never raises for what the server does.
    """
    deadline = time.monotonic() + timeout_s
    sent = {**(headers or {}), "Content-Length": str(len(body))}
    try:
        # An iterator: httpx's objects form a reference cycle, which would keep *body* alive until a garbage collection.
        with client.stream("POST", url, content=iter([body]), headers=sent, timeout=timeout_s) as response:
            return meaning(response, _read_bounded(response, deadline, most))
    except httpx.TransportError as exc:
        return unreachable(f"{type(exc).__name__} {exc}".strip())
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return Answer("refused", f"{type(exc).__name__} {exc}".strip())


def _read_bounded(response: httpx.Response, deadline: float, most: int) -> bytes:
    """The first bytes of the response. Does not wait for an endless or slow body: the status is enough."""
    said = b""
    for chunk in response.iter_bytes():
        said += chunk
        if len(said) > most or time.monotonic() > deadline:
            break
    return said[:most]
