"""The demo gateway's SQLite database: workers, shifts, fills, and the log that the observer posts to.

In memory unless a path is given. Bounded: the oldest fills and log entries are deleted.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from random import Random
from typing import Any, Final

from sidecar.demo.staffing_rules import CITIES, ROLES

_WORKERS_PER_ROLE: Final = 9
_MOST_FILLS: Final = 10_000
_MOST_LOG_ENTRIES: Final = 1_000
_SCHEMA: Final = """
CREATE TABLE workers (worker_id TEXT PRIMARY KEY, city TEXT, role TEXT, rating REAL, fills INTEGER DEFAULT 0);
CREATE INDEX workers_by_place ON workers (city, role, fills);
CREATE TABLE shifts (shift_id TEXT PRIMARY KEY, city TEXT, role TEXT, capacity INTEGER);
CREATE TABLE fills (fill_id INTEGER PRIMARY KEY, shift_id TEXT, worker_id TEXT);
CREATE TABLE log (entry_id INTEGER PRIMARY KEY, key TEXT UNIQUE, entry TEXT);
"""


class StaffingDb:
    """The database. Queries take microseconds, so they run on the event loop."""

    def __init__(self, dice: Random, path: str = ":memory:") -> None:
        self._dice = dice
        self._path = path
        self._db: sqlite3.Connection

    def open(self) -> None:
        """Create the tables and insert the workers."""
        self._db = sqlite3.connect(self._path, isolation_level=None)
        self._db.executescript(_SCHEMA)
        for city in CITIES:
            for role in ROLES:
                self._hire(city.name, role)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def shift(self, city: str, role: str) -> tuple[str, int]:
        """(id, capacity) of the shift in *city* for *role*; both must exist."""
        found = self._rows("SELECT shift_id, capacity FROM shifts WHERE city = ? AND role = ?", city, role)
        shift_id, capacity = found[0]
        return str(shift_id), int(capacity)

    def search(self, city: str, role: str, most: int) -> list[dict[str, Any]]:
        """Workers with the fewest shifts, the best rated of them first."""
        query = (
            "SELECT worker_id, rating, fills FROM workers WHERE city = ? AND role = ? "
            "ORDER BY fills, rating DESC, worker_id LIMIT ?"
        )
        rows = self._rows(query, city, role, most)
        return [{"worker_id": worker, "rating": rating, "fills": fills} for worker, rating, fills in rows]

    def count(self, city: str, role: str) -> int:
        """The number of workers."""
        return int(self._rows("SELECT count(*) FROM workers WHERE city = ? AND role = ?", city, role)[0][0])

    def fill(self, shift_id: str, workers: list[str]) -> None:
        """Assign *workers* to the shift."""
        self._db.executemany("UPDATE workers SET fills = fills + 1 WHERE worker_id = ?", [(each,) for each in workers])
        self._db.executemany(
            "INSERT INTO fills (shift_id, worker_id) VALUES (?, ?)", [(shift_id, each) for each in workers]
        )
        self._rows("DELETE FROM fills WHERE fill_id <= (SELECT max(fill_id) FROM fills) - ?", _MOST_FILLS)

    def keep(self, key: str | None, entry: dict[str, Any]) -> bool:
        """Add *entry* to the log; False if *key* is there already."""
        text = json.dumps(entry)
        added = self._db.execute("INSERT OR IGNORE INTO log (key, entry) VALUES (?, ?)", (key, text)).rowcount == 1
        self._rows("DELETE FROM log WHERE entry_id <= (SELECT max(entry_id) FROM log) - ?", _MOST_LOG_ENTRIES)
        return added

    def log_entries(self) -> list[dict[str, Any]]:
        """The log entries, oldest first."""
        return [json.loads(entry) for (entry,) in self._rows("SELECT entry FROM log ORDER BY entry_id")]

    def _hire(self, city: str, role: str) -> None:
        dice = self._dice
        workers = [
            (f"W-{dice.getrandbits(48):012x}", city, role, round(dice.uniform(3, 5), 1))
            for _ in range(_WORKERS_PER_ROLE)
        ]
        self._db.executemany("INSERT INTO workers (worker_id, city, role, rating) VALUES (?, ?, ?, ?)", workers)
        shift = (f"SFT-{dice.getrandbits(40)}", city, role, dice.randrange(4, 7))
        self._db.execute("INSERT INTO shifts VALUES (?, ?, ?, ?)", shift)

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with closing(self._db.execute(query, values)) as cursor:
            return cursor.fetchall()
