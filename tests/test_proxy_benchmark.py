"""The proxy's benchmark measures what it says, on a small scale."""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path

from rich.console import Console

from benchmarks import proxy


def test_a_short_run_fills_the_table(tmp_path: Path) -> None:
    """Calls in three ways at both numbers of connections, a streamed body, agents that never read; nothing fails."""
    args = argparse.Namespace(rounds=1, seconds=0.5, stream_bytes=4 * 2**20, stalled_agents=20)
    report = proxy.run(args, os.environ, tmp_path, ("bare", "observed"))
    assert [(row.way, row.connections, row.failed) for row in report.rows] == [
        (way, connections, 0) for connections in (1, 16) for way in ("direct", "bare", "observed")
    ]
    assert all(row.calls_per_s > 0 for row in report.rows)
    assert report.streamed_s > 0
    assert report.stalled_mib > 0
    shown = io.StringIO()
    proxy.show(report, Console(file=shown, width=120))
    assert "4 MiB streamed" in shown.getvalue()
    assert "20 agents that never read" in shown.getvalue()
