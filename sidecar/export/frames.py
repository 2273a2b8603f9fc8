"""The frame format of spool segments: each request is stored with checksums, so that damage is detected and skipped.

A frame is: magic (4 bytes), request length, number of spans, CRC-32 of the request, CRC-32 of the sixteen bytes before
it (each number 32 bits, big-endian), then the request.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple

MAGIC: Final = b"\xf5OSP"
_HEAD: Final = struct.Struct(">4sIII")
_CHECK: Final = struct.Struct(">I")
HEAD_BYTES: Final = _HEAD.size + _CHECK.size
_WINDOW: Final = 1 << 16


class SpoolRecord(NamedTuple):
    """One `ExportTraceServiceRequest` as bytes, and the number of spans in it."""

    request: bytes
    spans: int


class Frame(NamedTuple):
    """One frame: its *start* and *end* positions in the file; *request* is None if it is damaged.

    *spans* is 0 if the header is damaged too, as the number is then unknown.
    """

    start: int
    end: int
    spans: int
    request: bytes | None


def framed(record: SpoolRecord) -> bytes:
    """*record* as a frame."""
    head = _HEAD.pack(MAGIC, len(record.request), record.spans, zlib.crc32(record.request))
    return head + _CHECK.pack(zlib.crc32(head)) + record.request


def frames(fd: int, start: int, size: int) -> Iterator[Frame]:
    """Yield the frames of an open file from *start* to *size*; an incomplete last frame is skipped."""
    at = start
    while at < size:
        head = _head(os.pread(fd, HEAD_BYTES, at))
        if head is None:
            found = _next_head(fd, at + 1, size)
            if found is None:
                if size - at >= HEAD_BYTES:
                    yield Frame(at, size, 0, None)
                return
            yield Frame(at, found, 0, None)
            at = found
            continue
        length, spans, checksum = head
        end = at + HEAD_BYTES + length
        if end > size:
            return
        request = os.pread(fd, length, at + HEAD_BYTES)
        yield Frame(at, end, spans, request if zlib.crc32(request) == checksum else None)
        at = end


def whole_until(fd: int, size: int) -> int:
    """The end of the last intact frame in an open file of *size* bytes; what follows was never acknowledged."""
    until = 0
    for frame in frames(fd, 0, size):
        if frame.request is not None:
            until = frame.end
    return until


def _head(data: bytes) -> tuple[int, int, int] | None:
    """(length, spans, checksum) of a frame's header; None if *data* is not an intact header."""
    if len(data) < HEAD_BYTES or data[:4] != MAGIC:
        return None
    if _CHECK.unpack_from(data, _HEAD.size)[0] != zlib.crc32(data[: _HEAD.size]):
        return None
    _, length, spans, checksum = _HEAD.unpack_from(data)
    return length, spans, checksum


def _next_head(fd: int, start: int, size: int) -> int | None:
    """The position of the next intact header at or after *start*."""
    at = start
    while at < size:
        window = os.pread(fd, min(_WINDOW + HEAD_BYTES, size - at), at)
        found = window.find(MAGIC)
        while 0 <= found < _WINDOW:
            if _head(window[found : found + HEAD_BYTES]) is not None:
                return at + found
            found = window.find(MAGIC, found + 1)
        at += _WINDOW
    return None
