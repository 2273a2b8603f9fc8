"""Words for the failure of a request, as people know them from other programs."""

from __future__ import annotations

import os
import ssl

import httpx

from sidecar.commands.terminal import visible


def why_failed(exc: BaseException, timeout_s: float) -> str:
    """The reason for *exc*: the system's own words if there are any, such as `Connection refused`."""
    if isinstance(exc, httpx.TimeoutException):
        return f"no answer within {timeout_s:g} s"
    words = str(exc)
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            number = 0 if isinstance(cause, ssl.SSLError) else cause.errno or 0  # TLS and DNS have numbers of their own
            words = os.strerror(number) if number > 0 else cause.strerror
        inner = cause.exceptions[0] if isinstance(cause, BaseExceptionGroup) else None
        cause = inner or cause.__cause__ or cause.__context__
    return visible(words) or type(exc).__name__
