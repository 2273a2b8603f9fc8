"""Reads request bodies: bounded in size before and after decompression, in time, and in total over all doors."""

from __future__ import annotations

import asyncio
import json
import math
import zlib
from collections.abc import AsyncIterable
from io import BytesIO
from typing import Any, Self

import falcon.asgi
import msgspec

from sidecar.errors import MalformedError, OverloadedError, TooLargeError

_SMALL = 1 << 14  # bytes; smaller bodies are read in one piece
_SLICE = 1 << 18  # bytes decompressed before other tasks get a turn
_GZIP = 16 + zlib.MAX_WBITS


class ByteBudget:
    """Counts the bytes of requests in flight over all doors, and refuses further ones before any work is done."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.refused = 0

    def take(self, count: int, held: int = 0) -> None:
        """Reserve *count* bytes, in addition to the *held* bytes of the same request. Raises OverloadedError.

        The only request in flight always fits: its door has its own bound, and a retry would not find more room.
        """
        if self.used + count > self.limit and self.used > held:
            self.refused += 1
            raise OverloadedError(
                "too much is in flight", f"all ports together hold at most {self.limit} bytes", "Send it again later"
            )
        self.used += count

    def give_back(self, count: int) -> None:
        """Release *count* bytes."""
        self.used -= count


class Lease:
    """The bytes that one request has reserved; released at the end of the `with` block."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give_back(self.held)
        self.held = 0

    def take(self, count: int) -> None:
        """Reserve *count* more bytes; see `ByteBudget.take`."""
        self._budget.take(count, self.held)
        self.held += count


class BodyReader:
    """Reads bodies of at most *max_bytes*. The connection bounds the time that reading may take."""

    def __init__(self, budget: ByteBudget, *, max_bytes: int) -> None:
        self._budget = budget
        self._max_bytes = max_bytes

    def lease(self) -> Lease:
        """A lease on the budget, for use in a `with` block."""
        return Lease(self._budget)

    async def read(self, req: falcon.asgi.Request, lease: Lease) -> bytes:
        """The decompressed body. Raises TooLargeError, OverloadedError, MalformedError."""
        length = req.content_length
        if length is not None and length > self._max_bytes:
            raise self._too_large(f"Content-Length is {length}")
        encoding = (req.headers.get("content-encoding") or "identity").lower()
        if encoding not in ("identity", "gzip"):
            raise falcon.HTTPUnsupportedMediaType(description=f"Content-Encoding {encoding[:40]!r}: send gzip or none")
        if length is not None and length <= _SMALL:
            lease.take(length)
            body = await req.stream.read()
        else:
            body = await self._raw(req.stream, lease)
        if length is not None and len(body) != length:
            raise MalformedError("the body is cut short", f"{len(body)} of {length} bytes arrived", "Send it again")
        return await self.unzipped(body, lease) if encoding == "gzip" else body

    async def _raw(self, stream: AsyncIterable[bytes], lease: Lease) -> bytes:
        body = BytesIO()  # which hands out what it gathered; joined chunks would be held twice for a while
        size = 0
        async for chunk in stream:
            size += len(chunk)
            if size > self._max_bytes:
                raise self._too_large("more than that arrived")
            lease.take(len(chunk))
            body.write(chunk)
        return body.getvalue()

    async def unzipped(self, data: bytes, lease: Lease) -> bytes:
        """*data* (gzip) decompressed. Raises TooLargeError, OverloadedError, MalformedError."""
        out = BytesIO()
        size = 0
        try:
            while data:
                member = zlib.decompressobj(_GZIP)
                while not member.eof:
                    part = member.decompress(data, _SLICE)
                    data = member.unconsumed_tail
                    if not part and not data and not member.eof:
                        raise zlib.error("it ends too early")
                    size += len(part)
                    if size > self._max_bytes:
                        raise self._too_large("it decompresses to more than that")
                    lease.take(len(part))
                    out.write(part)
                    await asyncio.sleep(0)
                data = member.unused_data
        except zlib.error as exc:
            raise MalformedError("the body is not gzip", str(exc), "Compress it anew, or send it as it is") from exc
        return out.getvalue()

    def _too_large(self, why: str) -> TooLargeError:
        return TooLargeError(f"the body is over {self._max_bytes} bytes", why, "Send less at a time")


def parse_json(data: bytes | msgspec.Raw) -> Any:
    """*data* as plain objects. Raises MalformedError.

    msgspec's fast decoder rejects lone surrogate escapes and out-of-range numbers, which senders do write; the standard
    library's decoder accepts them. Numbers that no type here can hold become text.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass
    except RecursionError as exc:
        raise MalformedError("the JSON is nested too deeply", "deeper than the parser goes", "Flatten it") from exc
    try:
        return json.loads(bytes(data), parse_int=_integer, parse_float=_real, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise MalformedError("the body is not JSON", str(exc)[:200], "Send JSON in UTF-8") from exc


def _integer(text: str) -> int | str:
    return int(text) if len(text) < 4000 else text  # Python refuses to parse more than 4300 digits


def _real(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _no_constant(name: str) -> Any:
    message = f"{name} is not JSON"
    raise ValueError(message)
