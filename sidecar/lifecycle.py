"""Starts stages in reverse flow order and stops them in flow order, within a grace period."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from sidecar.protocols import Stage

log = structlog.get_logger(__name__)


async def serve(
    stages: Sequence[Stage], stopping: asyncio.Event, grace_s: float, ready: Callable[[bool], None]
) -> None:
    """Run *stages*, given in flow order, until *stopping* is set; drain them within *grace_s* seconds.

    *ready* is called with True after the last start and with False before the first stop. A stage that fails to start,
    or a background task that fails later, ends the run, and its error is raised. Failed stops are raised together in
    an ExceptionGroup. Sources: the Collector's `graph.go` for the order, linkerd2-proxy's `main.rs` for the deadline.
    """
    loops = _Loops()
    failures: list[BaseException] = []
    late: list[BaseException] = []
    begun: list[Stage] = []
    try:
        tasks = await loops.open()
        for stage in reversed(stages):  # downstream first: nobody sends before its receiver is up
            begun.append(stage)
            await loops.unless_failed(stage.start(tasks))
        ready(True)
        await loops.unless_failed(stopping.wait())
    finally:
        ready(False)
        deadline = asyncio.get_running_loop().time() + grace_s
        while begun:  # upstream first: each room drains into a live one
            stage = begun.pop()
            failures += await _stop(stage, _share(deadline, last=not begun))
        late = await loops.close(deadline)
    if failures:
        raise BaseExceptionGroup("stages that did not stop cleanly", [*failures, *late])
    if late:
        raise late[0]


class _Loops:
    """The stages' background tasks, in a task group of their own, whose failure does not cancel the stopping."""

    def __init__(self) -> None:
        self._release = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None

    async def open(self) -> asyncio.TaskGroup:
        opened: asyncio.Future[asyncio.TaskGroup] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.create_task(self._hold(opened), name="stages")
        return await opened

    async def _hold(self, opened: asyncio.Future[asyncio.TaskGroup]) -> None:
        async with asyncio.TaskGroup() as tasks:
            opened.set_result(tasks)
            await self._release.wait()

    async def unless_failed(self, step: Awaitable[object]) -> None:
        """Await *step*; if a background task fails first, cancel *step* and raise that failure."""
        assert self._holder is not None  # noqa: S101 - open() came before; for the type checker
        waiting = asyncio.ensure_future(step)
        try:
            await asyncio.wait([waiting, self._holder], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gave_up = waiting.cancel()
            await asyncio.wait([waiting])
        if self._holder.done():
            raise _sole(self._holder.exception())
        if not gave_up:
            waiting.result()

    async def close(self, deadline: float) -> list[BaseException]:
        """Wait for the tasks to end; cancel them at *deadline* (loop time). Returns their failure, if any."""
        if self._holder is None:
            return []
        self._release.set()
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        done, _ = await asyncio.wait([self._holder], timeout=left_s)
        if not done:
            log.warning("stage.tasks_cancelled")
            self._holder.cancel()
            await asyncio.wait([self._holder])
        if self._holder.cancelled() or self._holder.exception() is None:
            return []
        return [_sole(self._holder.exception())]


def _sole(failure: BaseException | None) -> BaseException:
    """*failure* itself, or the single exception nested in it."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure or RuntimeError("the stages' tasks ended by themselves")


def _share(deadline: float, *, last: bool) -> float:
    """The deadline of the next stop: half of what is left, so that a hung stage leaves time for the journal."""
    now = asyncio.get_running_loop().time()
    return deadline if last else now + max(0.0, deadline - now) / 2


async def _stop(stage: Stage, deadline: float) -> list[Exception]:
    log.debug("stage.stopping", stage=stage.name)
    try:
        async with asyncio.timeout_at(deadline):
            await stage.stop()
    except TimeoutError:
        log.warning("stage.not_drained", stage=stage.name)  # at once: the process may be killed before it ends
        return [TimeoutError(f"{stage.name} did not drain within the grace period")]
    except Exception as exc:  # one failed stop must not skip the next
        log.exception("stage.stop_failed", stage=stage.name)
        return [exc]
    return []
