"""Incidents are announced, rise, subside, go quiet and come back by event time; people's hand goes before."""

from __future__ import annotations

import random
from itertools import count, permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.event_time import happened_at
from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.life_cycle import LifeCycle, binomial_tail, decided, is_quiet, rise
from sidecar.analysis.success_book import SuccessBook
from sidecar.analysis.timeline import DAY, HOUR, MINUTE, Buckets, Timeline
from sidecar.clock import rfc3339_ms
from sidecar.errors import JournalError
from sidecar.model import Incident, IncidentChange, ObservedOp
from tests.fakes import KeptDecisions, ManualClock, an_op

START_S = 1_700_000_000
_numbers = count(1)


def a_failure(second: float, **fields: object) -> ObservedOp:
    number = next(_numbers)
    plain = {"success": False, "error": "city closed", "trace_id": f"{number:032x}", "span_id": f"{number:016x}"}
    return an_op(**{**plain, "timestamp": rfc3339_ms(int((START_S + second) * 1000) * 10**6), **fields})


def an_id(second: float) -> str:
    """The id of an op that was taken at *second*."""
    taken = f"{round((START_S + second) * 1000):012x}"
    return f"{taken[:8]}-{taken[8:]}-7abc-8abc-0123456789ab"


class Bench:
    """A book, its life cycle and a journal of decisions; time is counted in seconds from the start."""

    def __init__(self) -> None:
        self.book, self.decisions = IncidentBook(), KeptDecisions()
        self.clock = ManualClock(START_S * 10**9)
        self.life_cycle = LifeCycle(self.book, self.decisions, self.clock)
        self.decisions.on("incidents", lambda body: decided(self.book, body))

    async def look(self, second: float, *ops: ObservedOp) -> list[tuple[str, str]]:
        """What a look at *second* decides, as (was, state), after *ops*."""
        for op in ops:
            self.book.consume(op)
        await self.clock.advance(START_S + second - self.clock.time_ns() / 1e9)
        before = len(self.decisions.decided)
        await self.life_cycle.look()
        return [(each.was, each.state) for _, body, _ in self.decisions.decided[before:] for each in body.changes]

    @property
    def only(self) -> Incident:
        (incident,) = self.book.incidents()
        return incident


async def test_an_incident_is_announced_once_and_ongoing_after_a_day() -> None:
    """The decision says what it was about; nothing more is decided in between."""
    bench = Bench()
    assert await bench.look(10, a_failure(1), a_failure(5)) == [("new", "new")]
    assert await bench.look(20, a_failure(15)) == []
    change: IncidentChange = bench.decisions.decided[0][1].changes[0]
    assert (change.by, change.count, change.message, len(change.trace_ids)) == ("observer", 2, "city closed", 2)
    assert await bench.look(86_500, a_failure(86_400)) == [("new", "ongoing")]
    assert await bench.look(86_600) == []


async def test_quiet_is_relative_to_its_own_rate_and_needs_an_endpoint_that_is_called() -> None:
    """Failing each minute, an hour's silence resolves it; nothing does while nobody calls the endpoint."""
    bench = Bench()
    await bench.look(600, *(a_failure(60 * number) for number in range(10)))
    assert await bench.look(600 + 7 * DAY) == [("new", "ongoing")]  # silent, but not called either
    bench.book.consume(an_op(timestamp=rfc3339_ms((START_S + 7 * DAY) * 10**9)))
    assert await bench.look(601 + 7 * DAY) == [("ongoing", "resolved")]
    rare = Bench()
    await rare.look(40_001, *(a_failure(10_000 * number) for number in range(5)))
    success = an_op(timestamp=rfc3339_ms((START_S + 100_000) * 10**9))
    assert await rare.look(40_000 + 199_999, success) == [("new", "ongoing")]
    assert await rare.look(40_000 + 200_001) == [("ongoing", "resolved")]


async def test_two_weeks_of_silence_resolve_whatever_is_called() -> None:
    """An endpoint that is gone does not keep its incidents open for ever."""
    bench = Bench()
    await bench.look(10, a_failure(1))
    assert await bench.look(14 * DAY + 2) == [("new", "resolved")]


async def test_late_events_bring_nothing_back_and_what_happens_later_does() -> None:
    """A failure from before the resolution is counted; one from after it makes a regression, told once."""
    bench = Bench()
    await bench.look(10, a_failure(1))
    await bench.life_cycle.by_hand(bench.only.fingerprint, "resolved", "ann", "rolled back")
    assert await bench.look(500, a_failure(9)) == []
    assert (bench.only.state, bench.only.count, bench.only.note) == ("resolved", 2, "rolled back")
    assert await bench.look(700, a_failure(600)) == [("regressed", "regressed")]
    assert await bench.look(710, a_failure(701)) == []
    assert bench.only.state == "regressed"
    assert await bench.look(700 + DAY, a_failure(699 + DAY)) == [("regressed", "ongoing")]


async def test_a_sender_whose_clock_is_ahead_makes_no_regression() -> None:
    """A failure cannot have happened after it was taken, as its id tells."""
    bench = Bench()
    ahead = a_failure(5000, op_id=an_id(5))
    assert happened_at(ahead) == rfc3339_ms((START_S + 5) * 10**9)
    await bench.look(10, ahead)
    await bench.life_cycle.by_hand(bench.only.fingerprint, "resolved", "ann", None)
    assert await bench.look(20) == []
    assert bench.only.state == "resolved"


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_success_that_is_dated_ahead_resolves_nothing(is_first: bool) -> None:
    """It happened when it was taken at the latest: an endpoint that nobody has called since is not well again."""
    bench = Bench()
    earlier = [] if is_first else [an_op(timestamp=rfc3339_ms(START_S * 10**9))]
    ahead = an_op(timestamp="2099-01-01T00:00:00.000Z", op_id=an_id(1))
    assert await bench.look(600, *earlier, ahead, *(a_failure(60 * number) for number in range(1, 10))) == [
        ("new", "new")
    ]
    assert bench.book.last_success("/fill") == rfc3339_ms((START_S + 1) * 10**9)
    assert await bench.look(600 + 7 * DAY) == [("new", "ongoing")]
    since = an_op(timestamp=rfc3339_ms((START_S + 7 * DAY) * 10**9), op_id=an_id(7 * DAY))
    assert await bench.look(601 + 7 * DAY, since) == [("ongoing", "resolved")]


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(-3000, 10**7)), min_size=1), st.data())
def test_the_last_time_is_that_of_the_op_which_came_last_to_the_second(calls: list[tuple[int, int]], data: Any) -> None:
    """However far ahead of its arrival a sender's clock is; and the same if the book was restored in between."""
    ops = [
        an_op(timestamp=rfc3339_ms((START_S * 1000 + taken + ahead) * 10**6), op_id=an_id(taken / 1000))
        for taken, ahead in calls
    ]
    split = data.draw(st.integers(0, len(ops)))
    whole, before, after = SuccessBook(), SuccessBook(), SuccessBook()
    for op in ops:
        whole.consume(op)
    for op in ops[:split]:
        before.consume(op)
    after.load(before.take_dirty())
    for op in ops[split:]:
        after.consume(op)
    (found,), (restored,) = whole.endpoints(), after.endpoints()
    exact = max(map(happened_at, ops))
    assert exact <= found.last_seen
    assert found.last_seen[:19] == exact[:19]
    assert restored.last_seen == found.last_seen


async def test_a_person_ignores_and_reopens() -> None:
    """What is ignored is counted and never spoken of; reopened, it is ongoing, and the history says who and why."""
    bench = Bench()
    await bench.look(10, a_failure(1))
    key = bench.only.fingerprint
    await bench.life_cycle.by_hand(key, "ignored", "ann", "known")
    assert await bench.look(3000, *(a_failure(2990 + number / 100) for number in range(500))) == []
    assert (bench.only.state, bench.only.count, bench.book.due()) == ("ignored", 501, [])
    incident = await bench.life_cycle.by_hand(key, "ongoing", "bob", None)
    assert incident is not None
    assert (incident.state, incident.decided_by, incident.note) == ("ongoing", "bob", None)
    row = bench.book.row(key)
    assert row is not None
    assert [(step.state, step.by, step.note) for step in row.history] == [
        ("new", "observer", None),
        ("ignored", "ann", "known"),
        ("ongoing", "bob", None),
    ]
    assert await bench.life_cycle.by_hand("nobody", "ignored", "ann", None) is None


async def test_a_rise_beyond_its_own_history_is_escalating_until_it_subsides() -> None:
    """One a minute, then ten a minute; and back."""
    bench = Bench()
    steady = [a_failure(60 * number) for number in range(60)]
    assert await bench.look(3600, *steady) == [("new", "new")]
    assert await bench.look(3630) == []
    burst = [a_failure(3600 + 6 * number) for number in range(50)]
    assert await bench.look(3900, *burst) == [("new", "escalating")]
    assert await bench.look(3930) == []
    calm = [a_failure(3900 + 60 * number) for number in range(60)]
    assert await bench.look(7500, *calm) == [("escalating", "ongoing")]


async def test_a_new_incident_has_no_history_to_rise_from() -> None:
    """However fast it begins: it is new, and said so."""
    bench = Bench()
    assert await bench.look(60, *(a_failure(number / 10) for number in range(600))) == [("new", "new")]
    assert await bench.look(90, *(a_failure(60 + number / 50) for number in range(600))) == []


async def test_a_steady_incident_is_hardly_ever_called_escalating() -> None:
    """Ten days of Poisson failures at three rates, looked at each 30 s: 86,400 looks, no false alarm."""
    dice = random.Random(7)
    for per_minute in (0.05, 1.0, 8.0):
        bench, second = Bench(), 0.0
        bench.book.consume(a_failure(0))
        row = bench.book.rows()[0]
        alarms = 0
        for look in range(28_800):
            while second < 30 * look:
                row.timeline.add(START_S + int(second))
                second += dice.expovariate(per_minute / 60)
            alarms += rise(row, START_S + 30.0 * look) <= 1e-6
        assert alarms == 0, per_minute


async def test_a_journal_that_fails_leaves_it_to_the_next_look() -> None:
    """Nothing takes effect that is not written."""
    bench = Bench()
    bench.decisions.failing = JournalError("the journal did not accept the record", "disk full", "Make room")
    assert await bench.look(10, a_failure(1)) == []
    assert bench.life_cycle.undecided == 1
    bench.decisions.failing = None
    assert await bench.look(20) == [("new", "new")]


async def test_a_look_decides_a_hundred_at_most() -> None:
    """The others are next."""
    bench = Bench()
    failures = [a_failure(1, endpoint=f"/e{number}") for number in range(250)]
    assert [len(await bench.look(10 + turn, *failures[:: 1 if turn == 0 else 251])) for turn in range(4)] == [
        100,
        100,
        50,
        0,
    ]


def test_decisions_and_failures_come_to_the_same_in_any_order() -> None:
    """A replay may see a decision before failures that the live run saw first; one overtaken is none to both."""
    body = (
        rb'{"at":"%s","changes":[{"fingerprint":"%s","state":"%s","was":"new","by":"ann","endpoint":"/fill",'
        rb'"message":"m","kind":"failure","count":1,"first_seen":"","last_seen":""%s}]}'
    )
    first = a_failure(1)
    key = book_of(first).incidents()[0].fingerprint.encode()
    steps = [
        body % (moment(at).encode(), key, state, b',"judged_from":"%s"' % seen.encode() if seen is not None else b"")
        for at, state, seen in ((5, b"new", ""), (50, b"resolved", None), (55, b"escalating", moment(5)))
    ]
    ops = [a_failure(40, trace_id=None), a_failure(60, trace_id=None)]
    found = set()
    together: list[bytes | ObservedOp] = [*steps, *ops]
    for order in permutations(together):
        book = book_of(first)
        for each in order:
            if isinstance(each, bytes):
                decided(book, each)
            else:
                book.consume(each)
        (incident,) = book.incidents()
        found.add((incident.state, incident.decided_at, incident.count, incident.last_seen))
    assert found == {("regressed", moment(50), 3, moment(60))}


def moment(second: int) -> str:
    return rfc3339_ms((START_S + second) * 10**9)


def book_of(*ops: ObservedOp) -> IncidentBook:
    book = IncidentBook()
    for op in ops:
        book.consume(op)
    return book


@given(st.lists(st.integers(0, 40 * DAY), max_size=60), st.randoms(use_true_random=False))
def test_a_timeline_does_not_depend_on_the_order_of_arrival(times: list[int], dice: random.Random) -> None:
    """Each bucket that is kept holds all of its failures; those that are far behind the latest are not kept."""
    one, other, halves = Timeline(), Timeline(), (Timeline(), Timeline())
    for number, each in enumerate(times):
        one.add(each)
        halves[number % 2].add(each)
    for each in dice.sample(times, len(times)):
        other.add(each)
    halves[0].absorb(halves[1])
    for (width, left), (_, right), (_, joined) in zip(one.levels(), other.levels(), halves[0].levels(), strict=True):
        kept = {MINUTE: 60, HOUR: 24, DAY: 30}[width]
        last = max((each // width for each in times), default=0)
        expected = [sum(each // width == bucket for each in times) for bucket in range(last - kept + 1, last + 1)]
        for buckets in (left, right, joined):
            assert len(buckets.counts) <= kept
            assert [buckets.between(at, at) for at in range(last - kept + 1, last + 1)] == expected


def test_buckets_sum_what_lies_between() -> None:
    """Stretches beyond what is kept count nothing."""
    buckets = Buckets()
    for number in (5, 7, 7, 9):
        buckets.add(number, 4)
    assert (buckets.between(0, 100), buckets.between(7, 8), buckets.between(10, 20)) == (3, 2, 0)


@pytest.mark.parametrize(("successes", "trials", "chance"), [(3, 5, 0.1), (10, 12, 0.5), (40, 60, 0.2), (5, 5, 0.9)])
def test_the_binomial_tail_is_exact(successes: int, trials: int, chance: float) -> None:
    """Against the sum of its terms."""
    terms = [
        binomial(trials, number) * chance**number * (1 - chance) ** (trials - number)
        for number in range(successes, trials + 1)
    ]
    assert binomial_tail(successes, trials, chance) == pytest.approx(sum(terms), rel=1e-9)


def binomial(trials: int, number: int) -> int:
    result = 1
    for each in range(number):
        result = result * (trials - each) // (each + 1)
    return result


def test_a_time_that_is_none_decides_nothing() -> None:
    """An incident whose times nobody can read is neither quiet nor rising."""
    (row,) = book_of(an_op(success=False, error="x", timestamp="soon")).rows()
    assert not is_quiet(row, START_S, None)
    assert rise(row, START_S) == 1.0
