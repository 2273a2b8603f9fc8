"""The files of one journal: closed segments named by where they begin, and the active file behind them.

Positions are logical byte offsets, which never begin anew: `ops.00000000000001048576.jsonl` begins at byte 1 MiB of
all that was ever written, and `ops.jsonl`, the active file, where the last closed segment ends. Where the last one
is dropped, an empty file of the next name stays in its place, so that the count goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

_DIGITS: Final = 20
_BUFFER: Final = 1 << 18
_END: Final = 1 << 62  # behind every byte


class Segment(NamedTuple):
    """A closed file: bytes *base* and on of its journal. *closed_at_s* is its last change, seconds since the epoch."""

    base: int
    size: int
    path: Path
    closed_at_s: float

    @property
    def end(self) -> int:
        """The offset just behind it."""
        return self.base + self.size


class OpenSegment(NamedTuple):
    """A file of a journal open for reading; *begins* lists where the closed ones began when it was opened."""

    file: BinaryIO
    base: int
    is_active: bool
    begins: list[int]


def segment_path(active: Path, base: int) -> Path:
    """The name that *active* gets when it is closed, having begun at *base*."""
    return active.with_name(f"{active.stem}.{base:0{_DIGITS}d}{active.suffix}")


def closed_segments(active: Path) -> list[Segment]:
    """The closed segments of the journal, oldest first. Files that go meanwhile are left out. Raises OSError."""
    name = re.compile(rf"{re.escape(active.stem)}\.(\d{{{_DIGITS}}}){re.escape(active.suffix)}", re.ASCII)
    found = []
    try:
        with os.scandir(active.parent) as entries:
            for entry in entries:
                match = name.fullmatch(entry.name)
                if match is not None:
                    with contextlib.suppress(FileNotFoundError):
                        stat = entry.stat()
                        found.append(Segment(int(match[1]), stat.st_size, Path(entry.path), stat.st_mtime))
    except FileNotFoundError:
        return []
    return sorted(found)


def active_base(closed: Sequence[Segment]) -> int:
    """Where the active file begins, behind those *closed*."""
    return closed[-1].end if closed else 0


def journal_span(active: Path) -> tuple[int, int]:
    """(first offset that is still there, offset behind the last byte). Raises OSError."""
    opened = open_at(active, _END)
    if opened is None:
        closed = closed_segments(active)
        return (closed[0].base if closed else 0), active_base(closed)
    with opened.file as file:
        first = opened.begins[0] if opened.begins else 0
        return first, opened.base + file.seek(0, os.SEEK_END)


def open_at(active: Path, offset: int) -> OpenSegment | None:
    """The file that holds *offset*, or the first one behind it; None where that would be an active file not there.

    Other threads may close and drop segments meanwhile: what is opened belongs to one moment. Raises OSError.
    """
    while True:
        closed = closed_segments(active)
        begins = [segment.base for segment in closed]
        segment = next((each for each in closed if each.end > offset and each.size), None)
        try:
            path = segment.path if segment is not None else active
            file = path.open("rb", buffering=_BUFFER)
        except FileNotFoundError:
            if [each.base for each in closed_segments(active)] == begins:
                return None
            continue
        if segment is not None:
            return OpenSegment(file, segment.base, False, begins)
        if [each.base for each in closed_segments(active)] == begins:
            return OpenSegment(file, active_base(closed), True, begins)
        file.close()  # it was closed and another one begun while we looked


def open_before(active: Path, base: int | None) -> tuple[BinaryIO, int] | None:
    """The file next older than the one that begins at *base*, and where it begins; for None the newest. OSError."""
    if base is None:
        newest = open_at(active, _END)
        if newest is not None:
            return newest.file, newest.base
    older = [each for each in closed_segments(active) if each.size and (base is None or each.base < base)]
    try:
        return (older[-1].path.open("rb"), older[-1].base) if older else None
    except FileNotFoundError:  # dropped meanwhile, and with it all before it
        return None


def drop_segment(active: Path, segment: Segment) -> None:
    """Remove a closed segment; the last one leaves an empty one that says where the active file begins. OSError."""
    if closed_segments(active)[-1:] == [segment]:
        # The writer may be closing the active file under this very name: then there is nothing to leave.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(segment_path(active, segment.end), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            sync_folder(active.parent)
    segment.path.unlink(missing_ok=True)
    sync_folder(active.parent)


def sync_folder(folder: Path) -> None:
    """Force the names in *folder* to the device. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
