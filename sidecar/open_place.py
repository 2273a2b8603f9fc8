"""Whether an open file is still the one at its path: a folder may be removed, moved or mounted over while it is in use.

What is written to a removed file is in no file once the process ends, so whoever acknowledges writes has to know.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOOK_S: Final = 0.1
WAY_BACK: Final = "put the folder of OBSERVER_DATA_DIR back, or restart the observer to begin a new one"


class FileGoneError(OSError):
    """The open file is not at its path any more. *records*: how many that were acknowledged are in no file."""

    def __init__(self, why: str, records: int) -> None:
        super().__init__(why)
        self.records = records


class OpenPlace:
    """The open file *fd* of *path*: `look` says whether it is still there, `wrote` counts what depends on that.

    A look costs a system call, so one within `LOOK_S` of a good one does nothing unless it is asked for *now*.
    """

    def __init__(self, path: Path, fd: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._fd = fd
        self._monotonic = monotonic
        self._is_told = is_at(fd, path)  # a few file systems number a file differently each time
        self._due = monotonic() + LOOK_S
        self._unseen = 0

    def wrote(self, records: int) -> None:
        """Count *records* written since the last look."""
        self._unseen += records

    def look(self, *, now: bool = False) -> None:
        """Raises FileGoneError, again and again until the same file is back."""
        if not self._is_told or not (now or self._monotonic() >= self._due):
            return
        if is_at(self._fd, self._path):
            self._due, self._unseen = self._monotonic() + LOOK_S, 0
            return
        is_removed = not os.fstat(self._fd).st_nlink
        records, self._unseen = (self._unseen if is_removed else 0), 0
        self._due = 0.0  # while it is gone, each attempt looks
        what = "removed from the data folder" if is_removed else "moved away, or another folder was mounted over it,"
        raise FileGoneError(f"{self._path.name} was {what} while in use", records)


class OpenFolder:
    """The folder at *path* as it is now, to tell later a file removed from it from a folder that is gone itself."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def lacks(self, name: str) -> bool:
        """Whether there is no *name* in the folder, while the folder is still in its place."""
        try:
            os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return is_at(self._fd, self._path)
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Let go of the folder. Nothing else may be called then."""
        os.close(self._fd)


def is_at(fd: int, path: Path) -> bool:
    """Whether *path* leads to the open file *fd*."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
