"""The environment of a measurement: machine, Python and package versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_PACKAGES = (
    "lakehouse-observer",
    "falcon",
    "uvicorn",
    "uvloop",
    "httptools",
    "msgspec",
    "opentelemetry-sdk",
    "structlog",
)


def machine(data_folder: Path) -> dict[str, str | int | float | list[float]]:
    """CPU, cores, memory, kernel, the file system of *data_folder*, and the load average (1, 5, 15 minutes)."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_mib": int((_field(Path("/proc/meminfo"), "MemTotal") or "0").split()[0]) // 1024,
        "kernel": f"{platform.system()} {platform.release()}",
        "data_file_system": _file_system(data_folder),
        "load_average": [round(each, 2) for each in os.getloadavg()],
    }


def versions(bun: str | None) -> dict[str, str]:
    """The versions of Python, the packages that matter for speed, and Bun if used."""
    found = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    if bun is not None:
        done = subprocess.run([bun, "--version"], capture_output=True, text=True, timeout=30, check=False)
        found["bun"] = done.stdout.strip()
    return found


def _field(path: Path, name: str) -> str:
    """The first value of *name* in a `name : value` file of /proc, or ""."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _file_system(folder: Path) -> str:
    """Type of the file system that holds *folder*, by the longest mount point above it."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    above = [(len(point), kind) for point, kind in mounts if folder.is_relative_to(point)]
    return max(above)[1] if above else "unknown"
