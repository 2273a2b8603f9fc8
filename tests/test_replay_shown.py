"""How far a replay is: a bar on a terminal, lines every few seconds elsewhere, and a summary."""

from __future__ import annotations

import io
import time
from pathlib import Path

from benchmarks.journal import write_journal
from sidecar.commands.progress_bar import ProgressBar
from sidecar.commands.replay import ProgressLines, replayed
from sidecar.commands.terminal import Terminal


class Tty(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_bar(tmp_path: Path) -> None:
    """With the share, the records, their rate and the time that is left."""
    write_journal(tmp_path, 1200)
    out = Tty()
    replayed(tmp_path, Terminal(out, {"NO_COLOR": "1"}))
    shown = out.getvalue()
    assert "100%" in shown
    assert "1,200 operations, " in shown
    assert "left" in shown
    assert shown.endswith("; damaged records: 0\n")
    bar = Tty()
    with ProgressBar(Terminal(bar, {})) as progress:
        progress.show(50, 100, 7)
    assert "50%" in bar.getvalue()


def test_a_pipe_gets_lines() -> None:
    """Without a terminal there is nothing to draw over."""
    out = io.StringIO()
    progress = ProgressLines(Terminal(out, {}), time.monotonic() - 10)
    progress.show(25, 100, 5000)
    progress.show(100, 100, 20_000)
    (line,) = out.getvalue().splitlines()
    assert line.startswith("25 %: 5,000 operations, ")
    assert line.endswith("30 s left")
