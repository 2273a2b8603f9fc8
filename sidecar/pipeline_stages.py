"""Small stages that the pipeline is joined with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.protocols import Stage


class Opening:
    """A stage that only opens something at start."""

    def __init__(self, name: str, open_it: Callable[[], None]) -> None:
        self.name = name
        self._open = open_it

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Open it."""
        self._open()

    async def stop(self) -> None:
        """Nothing to close."""


class Closing:
    """A stage that only closes something at stop."""

    def __init__(self, name: str, close: Any) -> None:
        self.name = name
        self._close = close

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Close it."""
        result = self._close()
        if result is not None:
            await result


class Together:
    """Stages that start and stop at the same time, as one: they share the time that is left."""

    def __init__(self, name: str, stages: Sequence[Stage]) -> None:
        self.name = name
        self._stages = stages

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start them all."""
        for stage in self._stages:
            await stage.start(tasks)

    async def stop(self) -> None:
        """Stop them all at once."""
        await asyncio.gather(*(stage.stop() for stage in self._stages))
