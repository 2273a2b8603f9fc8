"""The files of one journal: closed segments, named by their starting offset, followed by the active file.

Positions are logical byte offsets, which are never reused: `ops.00000000000001048576.jsonl` begins at byte 1 MiB of
everything ever written; `ops.jsonl`, the active file, begins where the last closed segment ends. If the last segment
is dropped, an empty file with the next offset as its name replaces it, so that offsets continue.
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
_END: Final = 1 << 62  # beyond every offset


class Segment(NamedTuple):
    """A closed file that begins at offset *base*. *closed_at_s* is its last change, seconds since the epoch."""

    base: int
    size: int
    path: Path
    closed_at_s: float

    @property
    def end(self) -> int:
        """The offset just after it."""
        return self.base + self.size


class OpenSegment(NamedTuple):
    """A journal file open for reading; *begins* are the bases of the closed segments when it was opened."""

    file: BinaryIO
    base: int
    is_active: bool
    begins: list[int]


def segment_path(active: Path, base: int) -> Path:
    """The name that *active*, begun at *base*, gets when it is closed."""
    return active.with_name(f"{active.stem}.{base:0{_DIGITS}d}{active.suffix}")


def closed_segments(active: Path) -> list[Segment]:
    """The closed segments of the journal, oldest first. Files removed meanwhile are skipped. Raises OSError."""
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
    """The offset at which the active file begins, given the *closed* segments."""
    return closed[-1].end if closed else 0


def journal_span(active: Path) -> tuple[int, int]:
    """(first offset still on disk, offset after the last byte). Raises OSError."""
    opened = open_at(active, _END)
    if opened is None:
        closed = closed_segments(active)
        return (closed[0].base if closed else 0), active_base(closed)
    with opened.file as file:
        first = opened.begins[0] if opened.begins else 0
        return first, opened.base + file.seek(0, os.SEEK_END)


def open_at(active: Path, offset: int) -> OpenSegment | None:
    """Open the file that holds *offset*, or the first one after it. None if that is a missing active file.

    Retries until it has a consistent view, as other threads may close and drop segments meanwhile. Raises OSError.
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
        file.close()  # the active file was closed and a new one begun meanwhile


def open_before(active: Path, base: int | None) -> tuple[BinaryIO, int] | None:
    """Open the last file before *base* (None: the newest). Returns it and its base, or None. Raises OSError."""
    if base is None:
        newest = open_at(active, _END)
        if newest is not None:
            return newest.file, newest.base
    older = [each for each in closed_segments(active) if each.size and (base is None or each.base < base)]
    try:
        return (older[-1].path.open("rb"), older[-1].base) if older else None
    except FileNotFoundError:  # dropped meanwhile, and so were all older ones
        return None


def drop_segment(active: Path, segment: Segment) -> None:
    """Remove a closed segment; an empty one replaces the last, to keep the active file's base. Raises OSError."""
    if closed_segments(active)[-1:] == [segment]:
        # The writer may be closing the active file under this very name: then the base is kept anyway.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(segment_path(active, segment.end), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            sync_folder(active.parent)
    segment.path.unlink(missing_ok=True)
    sync_folder(active.parent)


def sync_folder(folder: Path) -> None:
    """Sync the directory entries of *folder*. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
