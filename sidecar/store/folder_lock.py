"""Gives the data folder to one observer at a time: checks that it is writable, and locks it until the process ends.

The lock is the kernel's (`flock`), so a killed observer leaves none behind; the lock file only names its holder.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from sidecar.errors import StartError
from sidecar.open_place import is_at
from sidecar.protocols import Clock

log = structlog.get_logger(__name__)

_LOOK_S: Final = 2.0
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class FolderLock:
    """Holds *data_dir* for this process between `acquire` and `release`."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir
        self._path = data_dir / "observer.lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Create the folder (0700), test that it takes data, lock it. Raises StartError. Idempotent."""
        if self._fd is not None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = self._locked()
        except OSError as exc:
            raise self._unwritable(exc) from exc

    def renew(self) -> None:
        """Lock the folder again if the lock file was removed, as cleaners of old files do. Raises StartError, OSError.

        Until then a second observer could lock a new file of that name; if one has, this is a StartError.
        """
        held = self._fd
        if held is None or is_at(held, self._path):
            return
        self._fd = self._locked()
        os.close(held)
        log.warning("folder.locked_again", path=str(self._path))

    def release(self) -> None:
        """Release the folder. The file stays: removing it could let two holders lock two files of the same name."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        os.close(fd)

    def _locked(self) -> int:
        fd = os.open(self._path, _OPEN, 0o600)
        try:
            self._lock(fd)
            self._prove_writable(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _prove_writable(self, lock: int) -> None:
        """Write a probe file: permission bits do not reveal a full disk or a read-only mount. Raises OSError."""
        probe = self._folder / ".observer.probe"
        fd = os.open(probe, _OPEN | os.O_TRUNC, 0o600)
        try:
            os.write(fd, b"probe\n")
            os.fsync(fd)
        finally:
            os.close(fd)
            probe.unlink()
        os.fchmod(lock, 0o600)
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    def _unwritable(self, exc: OSError) -> StartError:
        if self._folder.exists() and not self._folder.is_dir():
            return StartError(
                f"the data folder {self._folder} is a file",
                "the observer keeps several files, in a folder of its own",
                "Name a folder with OBSERVER_DATA_DIR, or move the file away",
            )
        return StartError(
            f"the data folder {self._folder} cannot be written to",
            exc.strerror or str(exc),
            "Make it writable (or free some space), or choose another with OBSERVER_DATA_DIR",
        )

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise StartError(
                f"the data folder {self._folder} is in use",
                f"another observer ({_holder(fd)}) holds {self._path.name}",
                "Stop it, or give this one its own folder with OBSERVER_DATA_DIR",
            ) from exc
        except OSError as exc:
            raise StartError(
                f"the data folder {self._folder} cannot be locked",
                exc.strerror or str(exc),
                "Put it on a file system with flock (a local one), with OBSERVER_DATA_DIR",
            ) from exc


class LockWatch:
    """A stage: renews *lock* while *is_there* says that the journals are in place.

    The run ends if another observer has locked the folder meanwhile.
    """

    name = "folder-lock"

    def __init__(self, lock: FolderLock, is_there: Callable[[], bool], clock: Clock) -> None:
        self._lock = lock
        self._is_there = is_there
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start looking every two seconds."""
        self._task = tasks.create_task(self._loop(), name=self.name)

    async def stop(self) -> None:
        """Stop looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _loop(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_S)
            if not self._is_there():
                continue  # the folder is not ours to lock
            try:
                await asyncio.to_thread(self._lock.renew)
            except OSError as exc:  # as on a full disk; the next look tries again
                log.debug("folder.not_locked", error=str(exc))


def _holder(fd: int) -> str:
    """The pid in the lock file; it is missing for an instant while its holder starts."""
    text = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return f"pid {text}" if text.isdecimal() else "its pid is not known yet"
