"""Puts the spans of a received request into a spool, for the collector or for Langfuse.

A small request of which all leaves goes as it came. Others go in requests that collectors accept, each as soon as it is
full, and few at a time: a large request that waited for the disk as a whole would be held five times.
"""

from __future__ import annotations

from typing import Final

from sidecar.protocols import RequestSpool
from sidecar.receivers.otlp_attempts import Ledger

CHUNK_BYTES: Final = 2 * 2**20
"""Bound of a spooled request: collectors refuse gRPC messages over 4 MiB by default."""

_MOST_UNSETTLED: Final = 2  # chunks


class Leaving:
    """What leaves of *request* for *spool*; *ledger* knows what of it an earlier attempt has put there."""

    def __init__(self, request: bytes, spool: RequestSpool, ledger: Ledger) -> None:
        self._request = request
        self._spool = spool
        self._ledger = ledger
        self._is_large = len(request) > CHUNK_BYTES
        self._spans = 0
        self._parts: list[tuple[bytes, int]] = []  # of a large request, those of the next chunk
        self._size = 0

    async def add(self, data: bytes, spans: int) -> None:
        """Add the next part, with its number of spans. Raises OverloadedError, JournalError."""
        if self._is_large and self._parts and self._size + len(data) > CHUNK_BYTES:
            self._put_parts()
            if len(self._ledger.passed) >= _MOST_UNSETTLED:
                await self._ledger.half_settled()
        if spans:
            self._parts.append((data, spans))
            self._size += len(data)
            self._spans += spans

    def end(self, unchanged: int | None) -> None:
        """Put the rest. *unchanged*: how many spans came, if none of them was changed. Raises OverloadedError."""
        if not self._is_large and self._spans and self._spans == unchanged:
            self._put(self._request, self._spans)
        else:
            self._put_parts()

    def _put_parts(self) -> None:
        """Put the parts, joined to chunks: concatenated requests are one request."""
        parts, self._parts, self._size = self._parts, [], 0
        chunk: list[bytes] = []
        size = count = 0
        for data, spans in parts:
            if chunk and size + len(data) > CHUNK_BYTES:
                self._put(b"".join(chunk), count)
                chunk, size, count = [], 0, 0
            chunk.append(data)
            size += len(data)
            count += spans
        if chunk:
            self._put(b"".join(chunk), count)

    def _put(self, data: bytes, spans: int) -> None:
        if not self._ledger.has_next():
            self._ledger.add(self._spool.put(data, spans), "the spool cannot keep up")
