"""The demo's overseer: after repeated failures of one kind it appends a correction to the corrections file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

from sidecar.demo.agents import Job

_PATIENCE: Final = 4  # failures of one sig_hash; doubled after each correction
_ADVICE: Final = {
    "certificate": "Send certified workers: this state refuses the others. Set certified=true before you fill.",
    "closed": "Do not retry: the office is closed. Offer the shift to a city nearby, or hand it to a person.",
    "no such role": "Ask for a role that the gateway knows; search_workers lists them. Do not invent roles.",
    "has room for": "Ask for no more workers than the shift has room for; split what is left over two shifts.",
}
_DEFAULT_ADVICE: Final = "Wait before the next attempt; the shard is slow. A retry at once makes it slower."


class Overseer:
    """Counts failures by `sig_hash`; appends to *path*, whose folder must exist.

    The observer's tailer reads that file; see `receivers.corrections_tailer`.
    """

    def __init__(self, path: Path, dice: Random) -> None:
        self._path = path
        self._dice = dice
        self._failures: dict[str, int] = {}
        self._next_at: dict[str, int] = {}
        self.written = 0

    def notice(self, job: Job, error: str) -> None:
        """Count one failed call. A correction is due at 4 failures, at 8, at 16, and so on."""
        key = job.sig_hash
        count = self._failures[key] = self._failures.get(key, 0) + 1
        due = self._next_at.setdefault(key, _PATIENCE)
        if count >= due:
            self._next_at[key] = 2 * due
            self._append(job, error, count)

    def _append(self, job: Job, error: str, failures: int) -> None:
        row = {
            "created_at": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "model": "gpt-oss:120b",
            "task_class": "staffing.fill",
            "reason": f"{failures} failures: {error}",
            "correction": next((text for sign, text in _ADVICE.items() if sign in error), _DEFAULT_ADVICE),
            "sig_hash": job.sig_hash,
            "applied_at_turn": failures,
            "usage": {"latency_ms": self._dice.randrange(900, 4000)},
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.written += 1
