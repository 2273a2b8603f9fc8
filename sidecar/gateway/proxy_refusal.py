"""Responses of the proxy itself: refusals, and errors if the gateway does not answer."""

from __future__ import annotations

import msgspec

TRACE_ID_HEADER = b"X-Observer-Trace-Id"


class RefusedError(Exception):
    """A request that is not forwarded: *status* and *reason* of the response, and *text* for the sender."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(status, reason, text)
        self.status, self.reason, self.text = status, reason, text


MALFORMED = RefusedError(400, "Bad Request", "the request is not valid HTTP/1.1: send a valid one")
TOO_LARGE = RefusedError(431, "Request Header Fields Too Large", "the request head is too large: send fewer headers")
TOO_SLOW = RefusedError(408, "Request Timeout", "the request head arrived too slowly: send it again, faster")
PROBED = RefusedError(204, "No Content", "")


def local_response(
    status: int, reason: str, error: str, *, close: bool, trace_id: int = 0, method: bytes = b"GET"
) -> bytes:
    """A complete response of the proxy itself; its body is JSON with `error`."""
    body = msgspec.json.encode({"error": error})
    lines = [
        b"HTTP/1.1 %d %b" % (status, reason.encode()),
        b"Content-Type: application/json",
        b"Content-Length: %d" % len(body),
        b"X-Observer-Error: proxy",
    ]
    if trace_id:
        lines.append(b"%b: %032x" % (TRACE_ID_HEADER, trace_id))
    if close:
        lines.append(b"Connection: close")
    return b"\r\n".join([*lines, b"", b"" if method == b"HEAD" else body])
