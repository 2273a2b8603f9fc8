"""The fault layer under a process's writes: what each fault does, to the files of one folder and to no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crash.disk import FaultLayer, SmallDisk, shim

_PROGRAM = """
import json, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND)
def tried(call, *arguments):
    try:
        return call(*arguments)
    except OSError as exc:
        return exc.strerror
found = [tried(os.write, fd, b"12345678"), tried(os.write, fd, b"abcdefgh"), tried(os.fdatasync, fd),
    tried(os.ftruncate, fd, 0)]
sys.stdout.write(json.dumps([*found, os.fstat(fd).st_size]))
"""
_NO_ROOM = os.strerror(28)
_FAILED = os.strerror(5)


def outcome(tmp_path: Path, path: Path, fault: str) -> Any:
    """What two writes of 8 bytes, a sync and a truncation give under *fault*, and the size afterwards."""
    library = shim()
    if library is None:
        pytest.skip("no C compiler for the fault layer")
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    layer = FaultLayer(library, folder, tmp_path / "fault")
    if fault:
        layer.set(fault)
    command = [sys.executable, "-S", "-c", _PROGRAM, str(path)]
    done = subprocess.run(command, env={**os.environ, **layer.env}, capture_output=True, text=True, check=True)
    layer.clear()
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", [8, 8, None, None, 0]),
        ("eio", [_FAILED, _FAILED, None, None, 0]),
        ("enospc", [_NO_ROOM, _NO_ROOM, None, None, 0]),
        ("short", [4, 4, None, None, 0]),
        ("torn", [4, _NO_ROOM, None, None, 0]),
        ("stuck", [4, _NO_ROOM, None, _FAILED, 4]),
        ("sync", [8, 8, _FAILED, None, 0]),
        ("stall 0.01", [8, 8, None, None, 0]),
        ("syncstall 0.01", [8, 8, None, None, 0]),
    ],
)
def test_a_fault_does_what_it_is_called(tmp_path: Path, fault: str, expected: list[Any]) -> None:
    """Two writes, a sync, a truncation, and the size that is left."""
    assert outcome(tmp_path, tmp_path / "data" / "file", fault) == expected


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    """Only the data folder's disk fails."""
    assert outcome(tmp_path, tmp_path / "elsewhere", "eio") == [8, 8, None, None, 0]


def test_a_small_disk_is_full_until_it_is_freed(tmp_path: Path) -> None:
    """Not one byte more goes in; afterwards it does."""
    if SmallDisk.refused():
        pytest.skip(SmallDisk.refused())
    disk = SmallDisk(tmp_path / "disk")
    assert disk.mount()
    try:
        disk.fill()
        with pytest.raises(OSError, match=_NO_ROOM):
            (disk.folder / "more").write_bytes(b"x")
        disk.free()
        (disk.folder / "more").write_bytes(b"x")
    finally:
        disk.unmount()
