"""Small generic stages for the pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sidecar.protocols import Stage


class Opening:
    """A stage that only runs a function at start."""

    def __init__(self, name: str, open_it: Callable[[], None]) -> None:
        self.name = name
        self._open = open_it

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Run it."""
        self._open()

    async def stop(self) -> None:
        """Does nothing."""


class Closing:
    """A stage that only runs a function, sync or async, at stop."""

    def __init__(self, name: str, close: Any) -> None:
        self.name = name
        self._close = close

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Does nothing."""

    async def stop(self) -> None:
        """Run it."""
        result = self._close()
        if result is not None:
            await result


class StageGroup:
    """Several stages as one: they start in order and stop concurrently, sharing the remaining time."""

    def __init__(self, name: str, stages: Sequence[Stage]) -> None:
        self.name = name
        self._stages = stages

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start all stages."""
        for stage in self._stages:
            await stage.start(tasks)

    async def stop(self) -> None:
        """Stop all stages concurrently."""
        await asyncio.gather(*(stage.stop() for stage in self._stages))
