"""`kill -9` while segments are closed, copied and dropped: every acknowledged failure stays counted, once."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import httpx

from sidecar.store.checkpoint_copy import dumped
from sidecar.store.segments import journal_span
from tests.processes import UNMEASURED, Process, run_command, running_observer

LIMIT = {"OBSERVER_DATA_MAX_BYTES": str(2**24), "OBSERVER_CYCLE": "0.1", "OBSERVER_FSYNC": "never"}
BATCH = 20


def test_acknowledged_failures_stay_counted(tmp_path: Path) -> None:
    """Four times over, in full flight; then a replay gives the state that the last run left."""
    acknowledged = sent = 0
    for round_number in range(4):
        with running_observer(tmp_path, **LIMIT, **UNMEASURED) as process:
            got, tried = _post_until_killed(process, round_number)
            acknowledged, sent = acknowledged + got, sent + tried
    with running_observer(tmp_path, **LIMIT):
        pass
    data = tmp_path / "data"
    before = dumped(data / "state.db")
    (incident,) = (row for key, row in json.loads(before)["incidents"].items() if key.startswith("incident/"))
    assert acknowledged <= incident["row"]["incident"]["count"] <= sent
    assert journal_span(data / "ops.jsonl")[0] > 0
    done = run_command(tmp_path, "replay", "--dump", str(tmp_path / "dump"))
    assert (done.returncode, (tmp_path / "dump").read_bytes()) == (0, before)
    with closing(sqlite3.connect(data / "state.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _post_until_killed(process: Process, round_number: int) -> tuple[int, int]:
    """(events acknowledged, events sent) before the kill, which comes in the middle of a request."""
    enough, counts = threading.Event(), [0, 0]

    def post() -> None:
        with httpx.Client(trust_env=False, timeout=30.0) as http:
            while True:
                events = [{"endpoint": "/x", "error": "boom", "x": "y" * 20_000} for _ in range(BATCH)]
                counts[1] += BATCH
                try:
                    counts[0] += http.post(f"{process.url}/events", json=events).json()["accepted"]
                except httpx.TransportError:
                    return
                if counts[0] >= 400 + 170 * round_number:
                    enough.set()

    thread = threading.Thread(target=post)
    thread.start()
    assert enough.wait(60)
    process.kill()
    thread.join(60)
    return counts[0], counts[1]
