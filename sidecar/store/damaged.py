"""What could not be read of a journal is kept in `<name>.damaged`, for people: each piece once, within a bound."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 1 << 20  # of one such file


def aside_path(active: Path) -> Path:
    """Where pieces of the journal *active* are kept."""
    return active.with_suffix(".damaged")


def keep_aside(active: Path, piece: bytes) -> bool:
    """Whether *piece*, without a line feed, is in the file now.

    A disk that damaged a record may be full still: a failure is no reason to stop.
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
