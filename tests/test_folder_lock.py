"""The data folder: writable, and one observer's at a time."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.errors import StartError
from sidecar.store.folder_lock import FolderLock

_HOLDER = """
import sys
from pathlib import Path
from sidecar.store.folder_lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def _descriptors() -> int:
    gc.collect()  # what an earlier test left is not to go while this one counts
    return len(list(Path("/proc/self/fd").iterdir()))


def _holder(folder: Path) -> subprocess.Popen[str]:
    """A second process that has the folder and keeps it until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_folder_is_created_for_its_owner_only(tmp_path: Path) -> None:
    """A missing folder appears with mode 0700, its lock file with 0600 and our pid, and the probe is gone."""
    folder = tmp_path / "a" / "b"
    lock = FolderLock(folder)
    lock.acquire()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "observer.lock").stat().st_mode) == 0o600
    assert (folder / "observer.lock").read_text() == f"{os.getpid()}\n"
    assert [entry.name for entry in folder.iterdir()] == ["observer.lock"]
    lock.release()


def test_second_observer_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    """While another process holds the folder, starting fails and names its pid and the way out."""
    with _holder(tmp_path) as holder:
        with pytest.raises(StartError) as caught:
            FolderLock(tmp_path).acquire()
        assert f"pid {holder.pid})" in str(caught.value)
        assert "OBSERVER_DATA_DIR" in str(caught.value)
        holder.communicate("")


def test_killed_observer_leaves_no_lock_behind(tmp_path: Path) -> None:
    """After kill -9 of the holder the folder is free."""
    with _holder(tmp_path) as holder:
        holder.kill()
        holder.communicate()
    lock = FolderLock(tmp_path)
    lock.acquire()
    assert (tmp_path / "observer.lock").read_text() == f"{os.getpid()}\n"
    lock.release()


def test_release_and_acquire_may_be_repeated(tmp_path: Path) -> None:
    """Both are idempotent, in any order, and leave no descriptor open."""
    before = _descriptors()
    lock = FolderLock(tmp_path)
    lock.release()
    for _ in range(3):
        lock.acquire()
        lock.acquire()
        lock.release()
        lock.release()
    with pytest.raises(StartError, match="its pid is not known yet"), _held_without_pid(tmp_path):
        lock.acquire()
    assert _descriptors() == before


class _held_without_pid:  # noqa: N801 - reads as a context manager
    """The lock as it is for an instant at the holder's start: taken, its file still empty."""

    def __init__(self, folder: Path) -> None:
        self._lock = FolderLock(folder)
        self._file = folder / "observer.lock"

    def __enter__(self) -> None:
        self._lock.acquire()
        self._file.write_text("")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """What cannot be a folder is a StartError with a fix, not a traceback."""
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(StartError, match=r"file is a file: .*OBSERVER_DATA_DIR"):
        FolderLock(path).acquire()


def test_folder_that_takes_no_probe_is_refused(tmp_path: Path) -> None:
    """A folder in which no new file can be written is refused, although the lock file could be opened."""
    (tmp_path / ".observer.probe").mkdir()
    before = _descriptors()
    with pytest.raises(StartError, match="cannot be written to"):
        FolderLock(tmp_path).acquire()
    assert _descriptors() == before
