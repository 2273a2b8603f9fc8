"""The loop that runs the steps of a cycle at a fixed interval; each step is bounded in time and cannot end the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from sidecar.errors import ObserverError
from sidecar.protocols import Clock
from sidecar.spans.attributes import CYCLE_NUMBER

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a cycle: *run* is called in every *every_nth* cycle, for at most *timeout_s* seconds."""

    name: str
    every_nth: int
    run: Callable[[], Awaitable[None]]
    timeout_s: float


class CycleLoop:
    """A `Stage` that runs *steps* every *every_s* seconds; no fault of a step ends the loop.

    *stats* returns the counts for the `cycle.completed` log line. Each cycle is a span in a trace of its own.
    """

    name = "cycle"

    def __init__(
        self, steps: Sequence[Step], stats: Callable[[], dict[str, int]], tracer: Tracer, clock: Clock, every_s: float
    ) -> None:
        self._steps = tuple(steps)
        self._stats = stats
        self._tracer = tracer
        self._clock = clock
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self.cycles = 0
        self.last_duration_ms = 0
        self.step_failures = 0
        self.step_timeouts = 0
        self.cycle_failures = 0  # cycles that failed outside their steps

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the loop; the first cycle begins after *every_s* seconds."""
        self._stopping = False
        self._task = tasks.create_task(self._loop(), name="cycle")

    async def stop(self) -> None:
        """Cancel the running step and run no further one."""
        self._stopping = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def run_once(self) -> None:
        """Run one cycle now. Raises nothing but the caller's own cancellation."""
        self.cycles += 1
        started = self._clock.monotonic()
        try:
            with self._tracer.start_as_current_span(
                "observer.cycle", context=Context(), attributes={CYCLE_NUMBER: self.cycles}
            ) as span:
                await self._run_steps(span)
            if not self._stopping:
                log.info("cycle.completed", **{"cycle": self.cycles, **self._stats()})
        except Exception:  # a fault ends this cycle, not the loop
            self.cycle_failures += 1
            log.exception("cycle.failed", cycle=self.cycles, failures=self.cycle_failures)
        finally:
            self.last_duration_ms = round((self._clock.monotonic() - started) * 1000)

    async def _loop(self) -> None:
        while not self._stopping:
            await self._clock.sleep(self._every_s)
            await self.run_once()

    async def _run_steps(self, span: Span) -> None:
        for step in self._steps:
            if self._stopping:
                return
            if self.cycles % step.every_nth == 0 and not await self._run_step(step):
                span.set_status(Status(StatusCode.ERROR, f"{step.name} did not complete"))

    async def _run_step(self, step: Step) -> bool:
        limit = asyncio.timeout(step.timeout_s)
        try:
            async with limit:
                await step.run()
        except (Exception, asyncio.CancelledError) as exc:  # a fault ends this step, not the loop
            if isinstance(exc, asyncio.CancelledError) and self._is_cancelled():
                raise
            if limit.expired():
                self.step_timeouts += 1
                log.error("cycle.step_timed_out", step=step.name, cycle=self.cycles, timeout_s=step.timeout_s)
            else:
                self.step_failures += 1
                known = isinstance(exc, ObserverError)  # such as a full disk: what and why say it all
                why = {"error": str(exc)} if known else {"exc_info": exc}
                log.error("cycle.step_failed", step=step.name, cycle=self.cycles, **why)
            return False
        return True

    def _is_cancelled(self) -> bool:
        """Whether this loop or its caller is being cancelled, rather than something that the step awaited."""
        task = asyncio.current_task()
        return self._stopping or (task is not None and task.cancelling() > 0)
