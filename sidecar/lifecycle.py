"""Start in reverse flow order, stop in flow order, within a grace period."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from sidecar.protocols import Stage

log = structlog.get_logger(__name__)


async def serve(
    stages: Sequence[Stage], stopping: asyncio.Event, grace_s: float, ready: Callable[[bool], None]
) -> None:
    """Run *stages*, given in flow order, until *stopping* is set; drain them within *grace_s* seconds.

    *ready* is told True after the last start and False before the first stop. A stage that fails to start ends
    the rest and raises its own error; failed stops are gathered in an ExceptionGroup. Sources: the Collector's
    `graph.go` for the order, style of linkerd2-proxy's `main.rs` for the deadline.
    """
    failures: list[Exception] = []
    async with asyncio.TaskGroup() as tasks:
        started: list[Stage] = []
        try:
            for stage in reversed(stages):  # downstream first: no one speaks before its listener is up
                await stage.start(tasks)
                started.append(stage)
            ready(True)
            await stopping.wait()
        finally:
            ready(False)
            deadline = asyncio.get_running_loop().time() + grace_s
            for stage in reversed(started):  # upstream first: each room drains into a live one
                failures += await _stop(stage, deadline)
    if failures:
        raise ExceptionGroup("stages that did not stop cleanly", failures)


async def _stop(stage: Stage, deadline: float) -> list[Exception]:
    log.info("stage.stopping", stage=stage.name)  # the last such line names a stuck room
    try:
        async with asyncio.timeout_at(deadline):
            await stage.stop()
    except TimeoutError:
        return [TimeoutError(f"{stage.name} did not drain within the grace period")]
    except Exception as exc:  # one failed stop must not skip the next
        log.exception("stage.stop_failed", stage=stage.name)
        return [exc]
    return []
