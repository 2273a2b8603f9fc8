"""Keeps unreadable pieces of a journal in `<name>.damaged`, for people: each piece once, bounded in bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 1 << 20  # bound of one such file


def aside_path(active: Path) -> Path:
    """The path of the file for pieces of the journal *active*."""
    return active.with_suffix(".damaged")


def keep_aside(active: Path, piece: bytes) -> bool:
    """Append *piece*, without a line feed. Returns whether the file has it now.

    Never raises: the disk that damaged the record may still be full, and that must not stop the caller.
    """
    line = piece + b"\n"
    try:
        fd = os.open(aside_path(active), os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        size = os.fstat(fd).st_size
        if line in os.pread(fd, size, 0):
            return True
        return size + len(line) <= MOST_BYTES and os.write(fd, line) == len(line)
    except OSError:
        return False
    finally:
        os.close(fd)
