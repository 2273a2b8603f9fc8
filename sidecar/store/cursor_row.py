"""A cursor of a room that reads something from outside: a few bytes in the state file, kept when they are given."""

from __future__ import annotations

from sidecar.store.database import write
from sidecar.store.state import StateStore


class CursorRow:
    """The row *name* of the cursors. It is not derived from the journals, and a replay leaves it as it is."""

    def __init__(self, state: StateStore, name: str) -> None:
        self._state = state
        self._name = name

    def load(self) -> bytes:
        """What was kept, or b"". Raises RetryableError."""
        return self._state.load("cursors").get(self._name, b"")

    async def save(self, body: bytes) -> None:
        """Keep *body*. Raises RetryableError."""
        await self._state.run(lambda connection: write(connection, {"cursors": {self._name: body}}))
