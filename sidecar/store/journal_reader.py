"""Reads a journal across all its segments: forward from a logical byte offset, or its last records."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import structlog

from sidecar.store.damaged import keep_aside
from sidecar.store.journal_file import CRC_TAIL, TOMBSTONE, opened
from sidecar.store.segments import OpenSegment, closed_segments, open_at, open_before

log = structlog.get_logger(__name__)

T = TypeVar("T")
_BLOCK = 1 << 18
_MOST_LOGGED = 100  # lines logged per reader; the rest is only counted


class JournalReader:
    """Yields decoded records of one journal, also while it is written. Damaged lines are skipped and counted.

    With *keep_damaged* they are also logged and kept aside; only one reader per journal needs to do that.
    """

    def __init__(self, path: Path, *, keep_damaged: bool = False) -> None:
        self._path = path
        self._keep_damaged = keep_damaged
        self.damaged = 0

    def scan(self, kind: type[T], offset: int = 0) -> Iterator[tuple[T, int]]:
        """Yield each record from *offset* on, with the offset just after it. A missing journal yields none.

        If *offset* lies before the oldest segment, it starts there. Raises OSError.
        """
        return self.each(msgspec.json.Decoder(kind).decode, offset)

    def each(self, read: Callable[[bytes], T], offset: int = 0) -> Iterator[tuple[T, int]]:
        """Like `scan`, but yields what *read* makes of a record's JSON, so that it can skip records undecoded.

        A line for which *read* raises a msgspec error counts as damaged.
        """
        while (segment := open_at(self._path, offset)) is not None:
            with segment.file as file:
                offset = max(offset, segment.base)
                file.seek(offset - segment.base)
                for record, end in self._records(read, segment, offset):
                    offset = end
                    if record is not None:
                        yield record, end
            if segment.is_active:
                begins = [each.base for each in closed_segments(self._path)]
                if not begins or begins[-1:] == segment.begins[-1:]:
                    return  # no segment was closed meanwhile: this is the end

    def tail(self, kind: type[T], most: int, most_bytes: int) -> list[T]:
        """The last records, oldest first: at most *most*, read from at most the last *most_bytes* of the journal."""
        decoder = msgspec.json.Decoder(kind)
        found: list[list[T]] = []
        base: int | None = None
        while most > 0 and most_bytes > 0 and (older := open_before(self._path, base)) is not None:
            file, base = older
            with file:
                lines, read = _last_lines(file, most, most_bytes)
            found.append([record for line in lines if (record := _decoded(decoder, line)) is not None])
            most, most_bytes = most - len(lines), most_bytes - read
        return [record for records in reversed(found) for record in records]

    def _records(self, read: Callable[[bytes], T], segment: OpenSegment, offset: int) -> Iterator[tuple[T | None, int]]:
        """Yield each line of the open file as (record, offset after it); the record is None if it is skipped."""
        crc32, tail = zlib.crc32, CRC_TAIL + 1
        for line in segment.file:
            start, offset = offset, offset + len(line)
            if line.startswith(TOMBSTONE):
                yield None, offset
                continue
            try:
                record = line[:-tail] + b"}"
                if line[-tail : 8 - tail] == b',"crc":"' and int(line[-11:-3], 16) == crc32(record):
                    yield read(record), offset
                    continue
                older = opened(line[:-1]) if line.endswith(b"\n") else None
                if older is not None:
                    yield read(older), offset
                    continue
            except (msgspec.MsgspecError, ValueError, RecursionError):  # ValueError: not UTF-8, or not hex
                pass
            if segment.is_active and not line.endswith(b"\n"):
                return  # still being written
            self._damaged(segment, line, start)
            yield None, offset

    def _damaged(self, segment: OpenSegment, line: bytes, start: int) -> None:
        self.damaged += 1
        if self._keep_damaged:
            kept = keep_aside(self._path, line.rstrip(b"\n"))
            if self.damaged <= _MOST_LOGGED:
                log.error(
                    "journal.record_damaged",
                    path=str(segment.file.name),
                    at_byte=start - segment.base,
                    bytes=len(line),
                    kept_aside=kept,
                )


def _last_lines(file: BinaryIO, most: int, most_bytes: int) -> tuple[list[bytes], int]:
    """The last *most* complete lines of *file*, without line feeds, and the number of bytes read."""
    start = size = file.seek(0, os.SEEK_END)
    blocks: list[bytes] = []
    ends = 0
    while start > 0 and size - start < most_bytes and ends <= most:
        step = min(_BLOCK, start, most_bytes - (size - start))
        start -= step
        file.seek(start)
        blocks.append(file.read(step))
        ends += blocks[-1].count(b"\n")
    lines = b"".join(reversed(blocks)).split(b"\n")
    whole = lines[:-1] if start == 0 else lines[1:-1]
    return whole[-most:], size - start


def _decoded(decoder: msgspec.json.Decoder[T], line: bytes) -> T | None:
    """The record of *line*; None if it is unreadable. Not counted here: `scan` counts damaged lines."""
    record = opened(line)
    try:
        return decoder.decode(record) if record is not None and not record.startswith(TOMBSTONE) else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
