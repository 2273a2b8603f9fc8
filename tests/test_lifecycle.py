"""Stages start downstream first, stop upstream first, and whatever fails comes out as itself."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import StartError
from sidecar.lifecycle import serve

NO_PORT = StartError("port 3800 cannot be had", "it is in use", "Choose another")


class ToldStage:
    """Writes down what happens to it, and does what it is told."""

    def __init__(
        self,
        name: str,
        events: list[str],
        *,
        start: Exception | None = None,
        stop: Exception | None = None,
        hang: bool = False,
    ) -> None:
        self.name = name
        self.events = events
        self._start = start
        self._stop = stop
        self._hang = hang

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        self.events.append(f"start {self.name}")
        if self._start is not None:
            raise self._start

    async def stop(self) -> None:
        self.events.append(f"stop {self.name}")
        if self._hang:
            await asyncio.Event().wait()
        if self._stop is not None:
            raise self._stop
        await asyncio.sleep(0)
        self.events.append(f"stopped {self.name}")


class LoopStage(ToldStage):
    """Runs a loop that fails, once *trouble* is set, and that only ends by itself if it *obeys*."""

    def __init__(self, name: str, events: list[str], failure: Exception | None = None, *, obeys: bool = True) -> None:
        super().__init__(name, events)
        self.trouble = asyncio.Event()
        self._failure = failure
        self._obeys = obeys
        self._task: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        await super().start(tasks)
        self._task = tasks.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None and self._obeys:
            self._task.cancel()
        await super().stop()

    async def _run(self) -> None:
        try:
            await self.trouble.wait()
        except asyncio.CancelledError:
            self.events.append(f"cancelled {self.name}")
            raise
        if self._failure is not None:
            raise self._failure


class StuckStart(ToldStage):
    """A stage whose start never returns."""

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        await super().start(tasks)
        await asyncio.Event().wait()


async def running(stages: list[ToldStage], events: list[str], *, grace_s: float = 60.0) -> None:
    """Serve until ready, then stop."""
    stopping = asyncio.Event()

    def ready(now: bool) -> None:
        events.append(f"ready {now}")
        if now:
            stopping.set()

    await serve(stages, stopping, grace_s, ready)


def named(names: str, events: list[str]) -> list[ToldStage]:
    return [ToldStage(name, events) for name in names]


async def test_downstream_starts_first_and_stops_last() -> None:
    """No one speaks before its listener is up, and each room drains into a live one."""
    events: list[str] = []
    await running(named("abc", events), events)
    starts = ["start c", "start b", "start a", "ready True", "ready False"]
    assert events == [*starts, *(f"{step} {name}" for name in "abc" for step in ("stop", "stopped"))]


async def test_a_failing_start_comes_out_itself() -> None:
    """Those that run are stopped, and so is the one that failed halfway; the error is not wrapped."""
    events: list[str] = []
    stages = [*named("a", events), ToldStage("b", events, start=NO_PORT), *named("c", events)]
    with pytest.raises(StartError) as failed:
        await running(stages, events)
    assert failed.value is NO_PORT
    assert events == ["start c", "start b", "ready False", "stop b", "stopped b", "stop c", "stopped c"]


async def test_a_failing_start_is_not_hidden_by_a_failing_stop() -> None:
    """Why it did not start matters more than what went wrong while unwinding."""
    events: list[str] = []
    stages = [ToldStage("a", events, start=NO_PORT), ToldStage("b", events, stop=OSError("b"))]
    with pytest.raises(StartError):
        await running(stages, events)
    assert "stop b" in events


async def test_failing_stops_skip_no_one() -> None:
    """Every stage is stopped; the failures come out together at the end."""
    events: list[str] = []
    first, second = OSError("a"), ValueError("b")
    stages = [ToldStage("a", events, stop=first), ToldStage("b", events, stop=second), *named("c", events)]
    with pytest.raises(ExceptionGroup) as failed:
        await running(stages, events)
    assert failed.value.exceptions == (first, second)
    assert events[-1] == "stopped c"


async def test_a_hanging_stop_leaves_time_for_those_behind_it() -> None:
    """A stuck door is given up, named, and the journal behind it still drains."""
    events: list[str] = []
    stages = [ToldStage("door", events, hang=True), *named("j", events)]
    with pytest.raises(ExceptionGroup) as failed:
        await running(stages, events, grace_s=1.0)
    (error,) = failed.value.exceptions
    assert isinstance(error, TimeoutError)
    assert "door" in str(error)
    assert events[-1] == "stopped j"


async def test_the_last_stage_has_a_deadline_too() -> None:
    """Nothing outlasts the grace period, though every stage hangs."""
    events: list[str] = []
    stages = [ToldStage(name, events, hang=True) for name in "abc"]
    with pytest.raises(ExceptionGroup) as failed:
        await running(stages, events, grace_s=0.05)
    assert len(failed.value.exceptions) == 3


async def test_loops_that_do_not_end_are_cancelled() -> None:
    """A loop that its stage forgot does not keep the process alive."""
    events: list[str] = []
    await running([LoopStage("a", events, obeys=False)], events, grace_s=0.5)
    assert events[-1] == "cancelled a"


async def test_a_failing_loop_ends_everything_with_its_own_error() -> None:
    """The stages are stopped in order, undisturbed, and the error comes out as it is."""
    events: list[str] = []
    bug = ValueError("bug")
    loop = LoopStage("b", events, bug)
    stages = [*named("a", events), loop, *named("c", events)]
    with pytest.raises(ValueError, match="bug") as failed:
        await serve(stages, asyncio.Event(), 60.0, lambda now: loop.trouble.set() if now else None)
    assert failed.value is bug
    assert [event for event in events if event.startswith("stopped")] == ["stopped a", "stopped b", "stopped c"]


async def test_two_failing_loops_come_out_together() -> None:
    """Where there is more than one error, none is lost."""
    events: list[str] = []
    loops = [LoopStage(name, events, ValueError(name)) for name in "ab"]

    def ready(now: bool) -> None:
        for loop in loops:
            loop.trouble.set()

    with pytest.raises(ExceptionGroup) as failed:
        await serve(loops, asyncio.Event(), 60.0, ready)
    assert len(failed.value.exceptions) == 2


async def test_a_loop_that_fails_during_start_gives_the_start_up() -> None:
    """A start that waits for a loop that has died does not wait for ever."""
    events: list[str] = []
    loop = LoopStage("b", events, ValueError("bug"))
    loop.trouble.set()
    with pytest.raises(ValueError, match="bug"):
        await running([StuckStart("a", events), loop], events)
    assert "ready True" not in events
    assert events[-1] == "stopped b"


async def test_a_loop_that_fails_while_stopping_is_told_and_skips_no_one() -> None:
    """Its error comes out after every stage was stopped."""
    events: list[str] = []
    loop = LoopStage("b", events, ValueError("late"), obeys=False)

    class Troubling(ToldStage):
        async def stop(self) -> None:
            loop.trouble.set()
            await super().stop()

    with pytest.raises(ValueError, match="late"):
        await running([Troubling("a", events), loop, *named("c", events)], events)
    assert events[-1] == "stopped c"


async def test_cancelling_serve_stops_the_stages() -> None:
    """An interrupt from outside drains as well."""
    events: list[str] = []
    up = asyncio.Event()
    serving = asyncio.ensure_future(
        serve(named("ab", events), asyncio.Event(), 60.0, lambda now: up.set() if now else None)
    )
    await up.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert events[-4:] == ["stop a", "stopped a", "stop b", "stopped b"]
