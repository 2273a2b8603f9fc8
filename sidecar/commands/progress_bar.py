"""A progress bar on a terminal: the share done, the number of records and their rate, and the time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sidecar.commands.terminal import Terminal


class ProgressBar:
    """A context manager; `show` moves the bar."""

    def __init__(self, terminal: Terminal) -> None:
        self._bar = Progress(
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[records]:,} operations, {task.fields[rate]:,.0f}/s,"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(file=terminal.out, no_color=not terminal.colours),
            auto_refresh=False,
        )
        self._started = time.monotonic()
        self._task = self._bar.add_task("", total=None, records=0, rate=0.0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, done: int, total: int, records: int) -> None:
        """Show that *done* of *total* bytes were read, with *records* records."""
        rate = records / max(time.monotonic() - self._started, 0.001)
        self._bar.update(self._task, completed=done, total=max(total, 1), records=records, rate=rate)
        self._bar.refresh()
