"""Runs one measurement from the command line in a temporary folder, and cleans up at the end."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from rich.console import Console

from benchmarks.servers import BenchmarkError

T = TypeVar("T")


def in_folder(name: str, data_dir: Path, console: Console, measure: Callable[[Path], T]) -> T | None:
    """The result of *measure* on a new folder in *data_dir*, which is removed afterwards; None if it failed.

    The reason is printed on *console*. A SIGTERM stops the started processes, too.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=data_dir))
    signal.signal(signal.SIGTERM, _leave)
    try:
        return measure(folder)
    except BenchmarkError as exc:
        console.print(f"benchmarks: {exc}", style="red", markup=False, highlight=False)
        return None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
