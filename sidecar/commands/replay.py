"""`observer replay`: rebuilds all derived state from the journals; asks no model and notifies nobody."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final, Protocol

from sidecar import logs
from sidecar.commands.private_file import write_private
from sidecar.commands.terminal import Terminal
from sidecar.errors import StartError
from sidecar.pipeline.replay import WholeReplay
from sidecar.settings import Settings
from sidecar.store.checkpoint_copy import dumped
from sidecar.store.folder_lock import FolderLock

_REDRAW_S: Final = 0.1
_PLAIN_S: Final = 3.0


class Progress(Protocol):
    """Shows the progress."""

    def show(self, done: int, total: int, records: int) -> None:
        """Show that *done* of *total* bytes were read, with *records* records."""
        ...


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Replay and return 0. Raises StartError if the folder does not exist or is in use; OSError."""
    logs.configure_if_unset("text", "info")
    data_dir = data_folder(args.data_dir, env)
    lock = FolderLock(data_dir)
    lock.acquire()
    try:
        replayed(data_dir, Terminal(sys.stdout, env))
        if args.dump:
            write_private(Path(args.dump), dumped(data_dir / "state.db"))
    finally:
        lock.release()
    return 0


def data_folder(given: str | None, env: Mapping[str, str]) -> Path:
    """The observer's folder, from the flag, the environment or the default. Raises StartError if it does not exist."""
    data_dir = Path(given or env.get("OBSERVER_DATA_DIR") or Settings().data_dir)
    if not data_dir.is_dir():
        raise StartError(
            f"{data_dir} is not there",
            "no observer has written to this folder",
            "Name the right one with --data-dir or OBSERVER_DATA_DIR",
        )
    return data_dir


def replayed(data_dir: Path, terminal: Terminal) -> None:
    """Replay the folder, whose lock is held, and print a summary. Raises StartError, RetryableError, OSError."""
    started = time.monotonic()
    whole = WholeReplay(data_dir)
    try:
        whole.begin()
        with _progress(terminal, started) as progress:
            shown, pause_s = started, _PLAIN_S if terminal.width is None else _REDRAW_S
            for _ in whole.steps():
                if time.monotonic() - shown >= pause_s:
                    shown = time.monotonic()
                    progress.show(whole.done, whole.total, whole.replay.ops)
            progress.show(whole.total, whole.total, whole.replay.ops)
        whole.finish()
    finally:
        whole.close()
    seconds, replay = time.monotonic() - started, whole.replay
    origin = "the checkpoint and the journals behind it" if whole.from_checkpoint else "the journals alone"
    terminal.write(
        f"replayed {replay.ops:,} operations and {replay.decisions:,} decisions from {origin} in {seconds:.1f} s"
        f" ({replay.ops / max(seconds, 0.001):,.0f}/s); damaged records: {replay.damaged:,}"
    )
    terminal.flush()


class ProgressLines:
    """Prints a line every few seconds, for files and pipes."""

    def __init__(self, terminal: Terminal, started: float) -> None:
        self._terminal = terminal
        self._started = started

    def show(self, done: int, total: int, records: int) -> None:
        """Print the progress; the end is left to the summary."""
        if done >= total:
            return
        passed = max(time.monotonic() - self._started, 0.001)
        left_s = passed * (total - done) / max(done, 1)
        self._terminal.write(
            f"{100 * done // max(total, 1)} %: {records:,} operations, {records / passed:,.0f}/s, {left_s:.0f} s left"
        )
        self._terminal.flush()


def _progress(terminal: Terminal, started: float) -> AbstractContextManager[Progress]:
    if terminal.width is None:
        return nullcontext(ProgressLines(terminal, started))
    from sidecar.commands.progress_bar import ProgressBar  # noqa: PLC0415 - rich is for terminals only

    return ProgressBar(terminal)
