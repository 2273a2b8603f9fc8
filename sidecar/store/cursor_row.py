"""The saved cursor of a room that reads from outside: a few bytes in the state file, written at once."""

from __future__ import annotations

from sidecar.store.database import write
from sidecar.store.state import StateStore


class CursorRow:
    """The cursor row *name*. It is not derived from the journals, so a replay leaves it alone."""

    def __init__(self, state: StateStore, name: str) -> None:
        self._state = state
        self._name = name

    def load(self) -> bytes:
        """The saved bytes, or b"". Raises RetryableError."""
        return self._state.load("cursors").get(self._name, b"")

    async def save(self, body: bytes) -> None:
        """Save *body*. Raises RetryableError."""
        await self._state.run(lambda connection: write(connection, {"cursors": {self._name: body}}))
