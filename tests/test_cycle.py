"""The cycle goes on, whatever its steps do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from opentelemetry.trace import StatusCode
from structlog.testing import capture_logs

from sidecar.analysis.cycle import CycleLoop, Step
from sidecar.analysis.error_analyzer import ErrorAnalyzer, marked
from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.playbook_book import PlaybookBook
from sidecar.analysis.playbook_consolidator import PlaybookConsolidator
from sidecar.analysis.rules import RuleBook
from sidecar.analysis.success_book import SuccessBook
from sidecar.errors import RetryableError
from sidecar.model_learning import PlaybookEntry
from tests.fakes import KeptDecisions, KeptPosts, KeptSpans, ManualClock, an_op

STATS = {
    "total_ops": 5,
    "successes": 3,
    "failures": 2,
    "scenario_ops": 1,
    "langfuse_ops": 0,
    "overseer_corrections": 0,
}


class Trail:
    """Steps that note that they ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def step(self, name: str, every_nth: int = 1, then: Callable[[], Awaitable[None]] | None = None) -> Step:
        async def run() -> None:
            self.ran.append(name)
            if then is not None:
                await then()

        return Step(name, every_nth, run, timeout_s=0.02 if name == "hang" else 30.0)


async def fail() -> None:
    raise RuntimeError("a bug")


async def hang() -> None:
    await asyncio.Event().wait()


async def await_something_cancelled() -> None:
    other = asyncio.create_task(hang())
    other.cancel()
    await other


def loop_of(*steps: Step, stats: Callable[[], dict[str, int]] = STATS.copy) -> tuple[CycleLoop, KeptSpans, ManualClock]:
    spans, clock = KeptSpans(), ManualClock()
    return CycleLoop(steps, stats, spans.tracer, clock, every_s=30.0), spans, clock


async def test_steps_run_in_order_each_in_its_cycles() -> None:
    """The first cycle comes after one wait; each fifth one consolidates."""
    trail = Trail()
    cycle, spans, clock = loop_of(trail.step("tail"), trail.step("analyse"), trail.step("consolidate", every_nth=5))
    async with asyncio.TaskGroup() as tasks:
        await cycle.start(tasks)
        await clock.advance(0)
        assert trail.ran == []
        for _ in range(6):
            await clock.advance(30)
        await cycle.stop()
    once = ["tail", "analyse"]
    assert trail.ran == [*once * 5, "consolidate", *once]
    assert cycle.cycles == 6
    numbers = [dict(span.attributes or {})["observer.cycle.number"] for span in spans.named("observer.cycle")]
    assert numbers == [1, 2, 3, 4, 5, 6]


async def test_a_completed_cycle_is_logged_with_its_counts() -> None:
    """The fields stand in the order of the line that existing log searches match."""
    cycle, _, _ = loop_of()
    with capture_logs() as logs:
        await cycle.run_once()
    (entry,) = [each for each in logs if each["event"] == "cycle.completed"]
    assert {key: entry[key] for key in ("cycle", *STATS)} == {"cycle": 1, **STATS}
    assert list(entry)[: 1 + len(STATS)] == ["cycle", *STATS]


@pytest.mark.parametrize(
    ("name", "then", "failures", "timeouts"),
    [("raise", fail, 1, 0), ("hang", hang, 0, 1), ("cancelled", await_something_cancelled, 1, 0)],
)
async def test_a_bad_step_costs_itself(
    name: str, then: Callable[[], Awaitable[None]], failures: int, timeouts: int
) -> None:
    """The other steps and the next cycles run; it is counted, and the cycle's span says which it was."""
    trail = Trail()
    cycle, spans, _ = loop_of(trail.step("before"), trail.step(name, then=then), trail.step("after"))
    await cycle.run_once()
    await cycle.run_once()
    assert trail.ran == ["before", name, "after"] * 2
    assert (cycle.step_failures, cycle.step_timeouts, cycle.cycles) == (2 * failures, 2 * timeouts, 2)
    span = spans.named("observer.cycle")[0]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, f"{name} did not complete")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (RetryableError("state.db was not written", "no space", "Look at the disk"), {"error": "state.db was"}),
        (ValueError("a bug"), {"exc_info": "ValueError"}),
    ],
)
async def test_only_a_fault_that_explains_itself_has_no_traceback(fault: Exception, said: dict[str, str]) -> None:
    """A full disk fails each cycle: a line each says it, and a bug can be found."""

    async def failing() -> None:
        raise fault

    cycle, _, _ = loop_of(Trail().step("save", then=failing))
    with capture_logs() as logs:
        await cycle.run_once()
    (entry,) = [each for each in logs if each["event"] == "cycle.step_failed"]
    told = {key: entry[key] for key in ("error", "exc_info") if key in entry}
    assert list(told) == list(said)
    assert all(repr(told[key]).strip("'").startswith(start) for key, start in said.items())


async def test_a_failure_outside_the_steps_costs_the_cycle() -> None:
    """Even where the counts cannot be had, the loop goes on."""

    def broken() -> dict[str, int]:
        raise ValueError("a bug")

    trail = Trail()
    cycle, _, clock = loop_of(trail.step("tail"), stats=broken)
    async with asyncio.TaskGroup() as tasks:
        await cycle.start(tasks)
        await clock.advance(0)
        await clock.advance(30)
        await clock.advance(30)
        await cycle.stop()
    assert (trail.ran, cycle.cycle_failures) == (["tail", "tail"], 2)


async def test_the_duration_is_that_of_the_last_cycle() -> None:
    """In whole milliseconds, by the clock."""
    trail = Trail()
    cycle, _, clock = loop_of(trail.step("slow", then=lambda: clock.advance(2.5)))
    await cycle.run_once()
    assert cycle.last_duration_ms == 2500


async def test_stop_cuts_the_running_step_short_and_runs_no_other() -> None:
    """Stopping twice, or before the start, is nothing."""
    trail, entered = Trail(), asyncio.Event()

    async def long_work() -> None:
        entered.set()
        await hang()

    cycle, _, clock = loop_of(trail.step("long", then=long_work), trail.step("after"))
    await cycle.stop()
    async with asyncio.TaskGroup() as tasks:
        await cycle.start(tasks)
        await clock.advance(0)
        await clock.advance(30)
        await entered.wait()
        await cycle.stop()
        await cycle.stop()
    assert (trail.ran, cycle.step_failures, cycle.step_timeouts) == (["long"], 0, 0)


async def test_a_step_that_stops_the_loop_is_the_last_one() -> None:
    """A stop that comes while a step ends well leaves the others alone and says of no completed cycle."""
    trail = Trail()

    async def stop() -> None:
        await cycle.stop()

    cycle, _, _ = loop_of(trail.step("first", then=stop), trail.step("after"))
    with capture_logs() as logs:
        await cycle.run_once()
    assert (trail.ran, logs) == (["first"], [])


async def test_the_end_of_its_task_group_ends_the_loop() -> None:
    """A cancellation from outside is obeyed, also in the middle of a step."""
    entered = asyncio.Event()

    async def long_work() -> None:
        entered.set()
        await hang()

    cycle, _, clock = loop_of(Trail().step("long", then=long_work))

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            await cycle.start(tasks)

    task = asyncio.create_task(run())
    await clock.advance(0)
    await clock.advance(30)
    await entered.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_hostile_ops_do_not_end_the_learning() -> None:
    """Endpoints and texts made to break things are diagnosed and consolidated beside the good ones."""
    incidents, successes = IncidentBook(), SuccessBook()
    decisions, gateway, spans, clock = KeptDecisions(), KeptPosts(), KeptSpans(), ManualClock()
    analyzer = ErrorAnalyzer(
        incidents,
        None,
        decisions,
        rules=RuleBook(),
        outbox=gateway,
        tracer=spans.tracer,
        clock=clock,
        model_name="",
    )
    playbook = PlaybookBook()
    consolidator = PlaybookConsolidator(
        successes, playbook, decisions, outbox=gateway, tracer=spans.tracer, clock=clock
    )
    decisions.on("diagnosis", lambda body: marked(incidents, body), analyzer.tell)
    decisions.on(
        "playbook", lambda body: playbook.keep(msgspec.json.decode(body, type=PlaybookEntry)), consolidator.tell
    )
    cycle = CycleLoop(
        [Step("analyse", 1, analyzer.analyze, 30.0), Step("consolidate", 1, consolidator.consolidate, 30.0)],
        STATS.copy,
        spans.tracer,
        clock,
        every_s=30.0,
    )
    for text in ("constructor", "__proto__", "", "\0\ud800", "x" * 1_000_000):
        hostile = {"endpoint": text, "input_summary": text, "role": text, "features": {text: text}, "trace_id": text}
        for success in (True, False) * 3:
            op = an_op(**hostile, success=success, error=text, span_id=text, op_id=text, error_type=text)
            incidents.consume(op)
            successes.consume(op)
    await cycle.run_once()
    assert (cycle.step_failures, cycle.step_timeouts, incidents.not_counted, successes.not_counted) == (0, 0, 0, 0)
    assert [kind for kind, _, _ in decisions.decided] == ["diagnosis", *["playbook"] * 5]
    assert len(gateway.again) == 6
