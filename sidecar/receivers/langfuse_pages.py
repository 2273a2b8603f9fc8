"""Pages of Langfuse's lists, with bounded memory: the size of the next page follows from the sizes of the last ones.

A row contains an observation's whole input and output, so a number of rows does not bound bytes. If a single row is too
large, the page is read without those texts: they are lost, but no row is.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import httpx
import msgspec

from sidecar.errors import MalformedError

MOST_BYTES: Final = 16 * 2**20
_LARGE: Final = 2**20  # bytes; they take about 4 ms of the event loop to decode
_DIGITS: Final = 16  # of a Content-Length; longer ones are ignored


class PageTooLargeError(Exception):
    """The response exceeds `MOST_BYTES`; it was not read completely."""


class PageSize:
    """The page size of one list: at most *most* rows with *fields*; *core_fields* are those without long texts."""

    def __init__(self, most: int, fields: str, core_fields: str) -> None:
        self._most = most
        self._fields = fields
        self._core_fields = core_fields
        self.rows = most
        self.core_only = False

    def params(self) -> dict[str, str]:
        """The query parameters of the next request."""
        return {"limit": str(self.rows), "fields": self._core_fields if self.core_only else self._fields}

    def halve(self) -> None:
        """Halve the number of rows, down to one."""
        self.rows = max(1, self.rows // 2)

    def shrink(self) -> bool:
        """The page was too large: ask for much less. Returns False if there is no less."""
        if self.rows > 1:
            self.rows = max(1, self.rows // 4)
            return True
        was, self.core_only = self.core_only, True
        return not was

    def came(self, size_bytes: int) -> None:
        """A page of *size_bytes* was read: adapt the number of rows."""
        self.core_only = False
        if size_bytes > _LARGE:
            self.halve()
        elif size_bytes < _LARGE // 4:
            self.rows = min(self._most, self.rows * 2)


async def get_page(
    client: httpx.AsyncClient, path: str, params: dict[str, str], timeout_s: float
) -> tuple[int, str, bytes]:
    """Status, `Retry-After` and body, within *timeout_s* in all. Raises PageTooLargeError, HTTPError, TimeoutError."""
    said = bytearray()
    async with (
        asyncio.timeout(timeout_s),
        client.stream("GET", path, params=params, timeout=timeout_s) as response,
    ):
        announced = response.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and len(announced) < _DIGITS and int(announced) > MOST_BYTES:
            raise PageTooLargeError
        async for chunk in response.aiter_bytes():
            said += chunk
            if len(said) > MOST_BYTES:
                raise PageTooLargeError
        return response.status_code, response.headers.get("retry-after", ""), bytes(said)


def page_in(path: str, body: bytes) -> dict[str, Any]:
    """Parse *body* as a page with `data`. Raises MalformedError."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedError(f"{path} is not JSON", str(exc), "Look at what LANGFUSE_PULL_URL leads to") from exc
    if not isinstance(said, dict) or not isinstance(said.get("data"), list):
        raise MalformedError(
            f"{path} has no data", "it is not a page of a list", "Look at what LANGFUSE_PULL_URL leads to"
        )
    return said
