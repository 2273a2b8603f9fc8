"""Reading a journal back: forward from a byte offset, or its last lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from sidecar.store.journal_file import opened

T = TypeVar("T")
_BLOCK = 1 << 18


class JournalReader:
    """Decoded records of one journal file. Damaged lines are skipped and counted in `damaged`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged = 0

    def scan(self, kind: type[T], offset: int = 0) -> Iterator[tuple[T, int]]:
        """Each record from byte *offset* on, with the offset just behind it. A missing file has none."""
        decoder = msgspec.json.Decoder(kind)
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written
                offset += len(line)
                record = self._decoded(decoder, line)
                if record is not None:
                    yield record, offset

    def tail(self, kind: type[T], most: int, most_bytes: int) -> list[T]:
        """The last records, oldest first: at most *most*, read from at most *most_bytes* of the file's end."""
        decoder = msgspec.json.Decoder(kind)
        lines = self._last_lines(most, most_bytes)
        return [record for line in lines if (record := self._decoded(decoder, line)) is not None]

    def _last_lines(self, most: int, most_bytes: int) -> list[bytes]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
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
        return whole[-most:] if most > 0 else []

    def _decoded(self, decoder: msgspec.json.Decoder[T], line: bytes) -> T | None:
        record = opened(line.rstrip(b"\n"))
        try:
            if record is not None:
                return decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            pass
        self.damaged += 1
        return None
