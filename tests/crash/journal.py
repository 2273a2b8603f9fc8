"""The oracle's own journal reader: it works on the raw bytes and shares no code with the observer."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_MEMBER = b',"crc":"'


class Line(NamedTuple):
    """One complete record; *place* is its index, the oldest is 0."""

    place: int
    record: dict[str, Any]


def segments(data: Path, name: str = "ops") -> list[Path]:
    """The files of the journal *name*, oldest first: rotated ones by the offset in their name, then the live one."""
    rotated = sorted(path for path in data.glob(f"{name}.*.jsonl") if path.name.split(".")[1].isdigit())
    live = data / f"{name}.jsonl"
    return [*rotated, *([live] if live.exists() else [])]


def whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line with its line feed) of each complete line."""
    at = 0
    for text in path.read_bytes().split(b"\n")[:-1]:
        yield at, text + b"\n"
        at += len(text) + 1


def read(data: Path) -> tuple[list[Line], list[bytes]]:
    """All valid records in order, and all damaged lines, including a torn last one."""
    lines: list[Line] = []
    damaged: list[bytes] = []
    for path in segments(data):
        for text in path.read_bytes().split(b"\n")[:-1]:
            record = _checked(text)
            if record is None:
                damaged.append(text)
            else:
                lines.append(Line(len(lines), record))
        torn = path.read_bytes().rpartition(b"\n")[2]
        if torn:
            damaged.append(torn)
    return lines, damaged


def _checked(text: bytes) -> dict[str, Any] | None:
    head, member, tail = text.rpartition(_MEMBER)
    if not member or tail[-2:] != b'"}' or tail[:-2] != b"%08x" % zlib.crc32(head + b"}"):
        return None
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
