"""Injects disk faults into the data folder: by an LD_PRELOAD shim, or by a small in-memory file system."""

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
    """The compiled shim, built once per process; None without a C compiler."""
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
    """Makes a process's writes to *folder* fail; off until `set`. *library* is the shim, loaded by `env`."""

    def __init__(self, library: Path, folder: Path, flag: Path) -> None:
        self._flag = flag
        self.env = {"LD_PRELOAD": str(library), "CRASH_FOLDER": f"{folder}/", "CRASH_FLAG": str(flag)}

    def set(self, fault: str) -> None:
        """Inject *fault* (see disk_faults.c) from now on."""
        fresh = self._flag.with_suffix(".new")
        fresh.write_text(fault)
        fresh.replace(self._flag)

    def clear(self) -> None:
        """Stop injecting faults."""
        self._flag.unlink(missing_ok=True)


class SmallDisk:
    """A tmpfs of *size_mib* at *folder*, and a file that fills it."""

    def __init__(self, folder: Path, size_mib: int = 32) -> None:
        self.folder = folder
        self._size_mib = size_mib
        self._filler = folder / "filler"

    @staticmethod
    @functools.cache
    def refused() -> str:
        """Why no tmpfs can be mounted here; "" if one can."""
        if os.geteuid() != 0:
            return "mounting a small tmpfs needs root"
        with tempfile.TemporaryDirectory() as scratch:
            disk = SmallDisk(Path(scratch))
            if not disk.mount():
                return "mounting a small tmpfs is not permitted"
            disk.unmount()
        return ""

    def mount(self) -> bool:
        """Mount it; return whether that succeeded."""
        self.folder.mkdir(exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={self._size_mib}m,mode=700", "tmpfs", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def unmount(self) -> None:
        """Unmount it; its contents are lost."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)

    def fill(self) -> None:
        """Use up all free space."""
        with self._filler.open("ab", buffering=0) as file:
            for step in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(step)) == step:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Free the space used by `fill`."""
        self._filler.unlink(missing_ok=True)
