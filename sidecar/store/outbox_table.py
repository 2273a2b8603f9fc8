"""Access to the outbox rows: on the state's writer thread in the observer, on an own connection outside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sidecar.errors import StartError
from sidecar.model import OutboxLook, Post, PostOutcome
from sidecar.store import outbox_rows
from sidecar.store.state import StateStore

_SINCE_VERSION: Final = 2
_BUSY_TIMEOUT_S: Final = 5.0


class OutboxTable:
    """An `OutboxStore` of the posts *to* one url (None: the gateway) in *state*, which must be open."""

    def __init__(self, state: StateStore, to: str | None = None) -> None:
        self._state = state
        self._to = to

    async def put(self, posts: Sequence[Post], now_ns: int) -> tuple[int, int]:
        """See `outbox_rows.put`. Raises RetryableError."""
        return await self._state.run(lambda connection: outbox_rows.put(connection, posts, now_ns))

    async def look(self, now_ns: int) -> OutboxLook:
        """See `outbox_rows.look`. Raises RetryableError."""
        return await self._state.run(lambda connection: outbox_rows.look(connection, now_ns, self._to))

    async def settle(self, number: int, outcome: PostOutcome) -> int:
        """See `outbox_rows.settle`. Raises RetryableError."""
        return await self._state.run(lambda connection: outbox_rows.settle(connection, number, outcome))


@contextmanager
def existing_outbox(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """Open the outbox in *data_dir*, possibly beside a running observer, for one transaction.

    Raises StartError if there is none. Never creates, sets aside or migrates a file.
    """
    path = data_dir / "state.db"
    try:
        with closing(_connect(path)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] < _SINCE_VERSION:
                raise StartError(f"{path} has no outbox", "an older observer wrote it", "Start the observer once")
            yield connection
    except sqlite3.Error as exc:
        raise StartError(f"{path} cannot be used", str(exc), "See whether another program holds or damaged it") from exc


def _connect(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise StartError(
            f"{path} is not there",
            "no observer has written to this folder",
            "Name the right one with --data-dir or OBSERVER_DATA_DIR",
        )
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None
    )
