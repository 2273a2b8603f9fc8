"""Forwards what Langfuse clients sent here to a Langfuse server, unchanged, from its own spool through its own lane.

A spool record is one POST: a line of JSON with path and headers, then the body. It is retried until Langfuse accepts it
or refuses it for good. If Langfuse temporarily fails to store some events of a batch, the whole batch is sent again:
Langfuse deduplicates events by id.
"""

from __future__ import annotations

import base64
import time
from typing import Any, Final

import httpx
import msgspec

from sidecar.export.answers import UNKNOWN_CREDENTIALS_HTTP, Answer, http_answer
from sidecar.export.http_client import attempt, tls_context
from sidecar.export.spool_door import SpoolDoor
from sidecar.protocols import Promise

_MULTI_STATUS: Final = 207
_MOST_TEXT: Final = 300
_MOST_ANSWER: Final = 2**20  # the response has an entry per event


class ForwardDoor:
    """A `LangfuseForward` that writes to *spool*."""

    def __init__(self, spool: SpoolDoor) -> None:
        self._spool = spool

    def put(self, path: str, headers: dict[str, str], body: bytes, items: int) -> Promise | None:
        """See `LangfuseForward`."""
        head = msgspec.json.encode({"path": path, "headers": headers})
        return self._spool.put(head + b"\n" + body, items)


class LangfuseSender:
    """Sends to one Langfuse server, for `export.lane`. Used by one thread; `close` may come from another."""

    def __init__(self, url: str, public_key: str, secret_key: str) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(verify=tls_context(url), headers=basic_auth(public_key, secret_key))

    def send(self, request: bytes, timeout_s: float) -> Answer:
        """Make one attempt of at most *timeout_s* seconds. Never raises for what the server does."""
        head, _, body = request.partition(b"\n")
        said: dict[str, Any] = msgspec.json.decode(head)
        return attempt(
            self._client,
            self._url + said["path"],
            body,
            timeout_s,
            _meaning,
            headers=said["headers"],
            most=_MOST_ANSWER,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def basic_auth(public_key: str, secret_key: str) -> dict[str, str]:
    """The `Authorization` header that identifies a Langfuse project."""
    pair = base64.b64encode(f"{public_key}:{secret_key}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _meaning(response: httpx.Response, body: bytes) -> Answer:
    status = response.status_code
    if status in UNKNOWN_CREDENTIALS_HTTP:
        return Answer("retry", f"HTTP {status}: Langfuse does not know the keys of LANGFUSE_FORWARD_…")
    if status == _MULTI_STATUS:
        return _of_each(body)
    if 200 <= status < 300 and "json" in response.headers.get("content-type", ""):
        return Answer("delivered")
    return http_answer(status, body, response.headers.get("retry-after", ""), time.time_ns())


def _of_each(body: bytes) -> Answer:
    """The verdict on a response with an entry per event or score (HTTP 207)."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Answer("delivered")
    errors = [each for each in said.get("errors") or () if isinstance(each, dict)] if isinstance(said, dict) else []
    if not errors:
        return Answer("delivered")
    statuses = [each.get("status") for each in errors]
    why = msgspec.json.encode(errors[0]).decode()[:_MOST_TEXT]
    if any(isinstance(status, int) and (status >= 500 or status == 429) for status in statuses):
        return Answer("retry", why)
    return Answer("delivered", why, rejected=len(errors))
