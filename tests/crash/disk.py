"""Ways to make the data folder's disk fail: a shim under the C library, and a small file system in memory."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("disk_faults.c")


@functools.cache
def shim() -> Path | None:
    """The compiled shim, made once per process; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="observer-crash-shim-"))
    library = folder / "disk_faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(_SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    return library


def remove_shim() -> None:
    """Delete what `shim` made."""
    if shim.cache_info().currsize and (library := shim()) is not None:
        shutil.rmtree(library.parent, ignore_errors=True)
    shim.cache_clear()


class FaultLayer:
    """Sits under a process's writes to *folder*; off until told otherwise. *library* is the shim."""

    def __init__(self, library: Path, folder: Path, flag: Path) -> None:
        self._flag = flag
        self.env = {"LD_PRELOAD": str(library), "CRASH_FOLDER": f"{folder}/", "CRASH_FLAG": str(flag)}

    def set(self, fault: str) -> None:
        """From now on *fault* (see disk_faults.c) holds."""
        fresh = self._flag.with_suffix(".new")
        fresh.write_text(fault)
        fresh.replace(self._flag)

    def clear(self) -> None:
        """The disk works again."""
        self._flag.unlink(missing_ok=True)


class SmallDisk:
    """A file system in memory of *size_mib* at *folder*, and a file that fills it."""

    def __init__(self, folder: Path, size_mib: int = 32) -> None:
        self.folder = folder
        self._size_mib = size_mib
        self._filler = folder / "filler"

    @staticmethod
    @functools.cache
    def refused() -> str:
        """Why none can be mounted here; "" if one can."""
        if os.geteuid() != 0:
            return "mounting a small tmpfs needs root"
        with tempfile.TemporaryDirectory() as scratch:
            disk = SmallDisk(Path(scratch))
            if not disk.mount():
                return "mounting a small tmpfs is not permitted"
            disk.unmount()
        return ""

    def mount(self) -> bool:
        """Whether it is there now."""
        self.folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size_mib}m,mode=700", "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def unmount(self) -> None:
        """Let go of it, and of what is in it."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fill(self) -> None:
        """Take all the room that is left."""
        with self._filler.open("ab", buffering=0) as file:
            for step in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(step)) == step:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Give the room back."""
        self._filler.unlink(missing_ok=True)
