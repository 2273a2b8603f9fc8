"""Exposures and their outcomes: one coin and one outcome a task, as assigned, in time, and put right when amended."""

from __future__ import annotations

from datetime import datetime
from random import Random
from typing import Any

import pytest

from sidecar.advice import exposures as module
from sidecar.advice.exposures import ExposureBook
from sidecar.advice.tallies import Trial
from sidecar.advice.uplift import Arm, Stratum
from sidecar.model_learning import Assignment, Exposure, InformedTask, ReportedOutcome
from tests.fakes import an_op

AT, UNTIL = "2024-05-01T10:00:00.000Z", "2024-05-01T11:00:00.000Z"
LATER = "2024-05-01T10:00:05.000Z"


def exposed(book: ExposureBook, *, shown: bool = True, **fields: Any) -> None:
    coins = [Assignment(playbook_id="pb-1", version=1, propensity=0.5, shown=shown)]
    plain: dict[str, Any] = {"exposure_id": "ex-1", "at": AT, "until": UNTIL, "endpoint": "/fill", "task": "t-1"}
    book.expose(Exposure(**{**plain, "assignments": coins, **fields}))


def called(book: ExposureBook, **fields: Any) -> bool:
    plain = {"endpoint": "/fill", "task": "t-1", "timestamp": LATER, "op_id": "op-1"}
    return book.consume(an_op(**{**plain, **fields}))


def taken_at(moment: str) -> str:
    """An id as new ops get it, made at *moment*."""
    made = f"{int(datetime.fromisoformat(moment).timestamp() * 1000):012x}"
    return f"{made[:8]}-{made[8:]}-7000-8000-000000000001"


def arms(book: ExposureBook) -> tuple[Arm, Arm]:
    tally = book.tally("pb-1")
    assert tally is not None
    shown, withheld = Arm(), Arm()
    for stratum in tally.now.strata:
        shown, withheld = stratum.shown, stratum.withheld
    return shown, withheld


@pytest.fixture
def book() -> ExposureBook:
    return ExposureBook()


@pytest.mark.parametrize("shown", [True, False])
def test_the_first_call_of_the_task_is_its_outcome(book: ExposureBook, shown: bool) -> None:
    """In the arm that the coin said; a second exposure and later calls add nothing."""
    exposed(book, shown=shown)
    assert called(book, success=True) is shown
    exposed(book, shown=not shown, exposure_id="ex-2")
    called(book, success=False, op_id="op-2")
    arm, other = arms(book) if shown else arms(book)[::-1]
    assert (arm, other) == (Arm(1, 1), Arm())


@pytest.mark.parametrize(
    "fields",
    [
        {"endpoint": "/other"},
        {"task": "t-2"},
        {"timestamp": "2024-05-01T09:59:59.999Z"},
        {"timestamp": "2024-05-01T11:00:00.001Z"},
        {"task": None},
    ],
    ids=["another endpoint", "another task", "before", "too late", "no task"],
)
def test_other_calls_are_no_outcome(book: ExposureBook, fields: dict[str, Any]) -> None:
    """Only the task's own, there, afterwards, in time."""
    exposed(book)
    called(book, **fields)
    assert (arms(book), book.open) == ((Arm(), Arm()), 1)


@pytest.mark.parametrize("shown", [True, False])
@pytest.mark.parametrize(
    ("ended", "taken", "counts"),
    [
        ("10:00:00.000", "10:00:00.700", True),
        ("10:00:00.300", "10:00:00.700", True),
        ("09:59:58.701", "10:00:00.700", True),
        ("09:59:58.700", "10:00:00.700", False),
        ("10:00:00.300", "10:00:05.300", False),
        ("10:00:00.500", "10:00:00.500", False),
        ("10:00:00.300", "", False),
    ],
    ids=["whole seconds", "slow clock", "just", "long ago", "came late", "a span, or settled late", "another id"],
)
def test_a_call_that_came_right_after_its_time_ended_when_it_came(
    book: ExposureBook, shown: bool, ended: str, taken: str, counts: bool
) -> None:
    """In either group. What else ended before the advice is no outcome, and counted once, not once an entry."""
    exposed(book, shown=shown, at="2024-05-01T10:00:00.600Z")
    op_id = taken and taken_at(f"2024-05-01T{taken}Z")
    called(book, timestamp=f"2024-05-01T{ended}Z", op_id=op_id)
    arm = arms(book)[not shown]
    assert (arm, book.too_early) == ((Arm(1, 1), 0) if counts else (Arm(), 1))
    called(book, timestamp="2024-05-01T09:00:00.000Z", exposure_id="ex-1", op_id="op-2")
    assert (arms(book)[not shown], book.too_early) == (Arm(1, 1), 0 if counts else 1)


def test_without_a_task_the_exposure_is_the_unit(book: ExposureBook) -> None:
    """Found by its id alone, whatever the clock of the sender says."""
    exposed(book, task=None)
    called(book, task=None)
    assert arms(book)[0] == Arm()
    assert called(book, task=None, exposure_id="ex-1", timestamp="2024-05-01T09:59:00.000Z") is True
    assert arms(book)[0] == Arm(1, 1)


def test_what_does_not_come_in_time_is_missing_in_its_arm(book: ExposureBook) -> None:
    """Counted when a cycle says that the time is over."""
    exposed(book, shown=False)
    list(book.close_overdue(UNTIL))
    assert book.open == 1
    list(book.close_overdue("2024-05-01T11:00:00.001Z"))
    tally = book.tally("pb-1")
    assert tally is not None
    assert (tally.now.missing.withheld, tally.now.assigned.withheld, book.open) == (1, 1, 0)
    called(book, timestamp="2024-05-01T10:30:00.000Z")
    assert arms(book)[1] == Arm()


def test_a_report_counts_apart_until_a_call_is_seen(book: ExposureBook) -> None:
    """Then the call counts and the report does not; an unknown exposure's report is counted as such."""
    exposed(book)
    book.report(ReportedOutcome(exposure_id="ex-1", at=LATER, success=True))
    book.report(ReportedOutcome(exposure_id="ex-9", at=LATER, success=True))
    tally = book.tally("pb-1")
    assert tally is not None
    assert (tally.now.strata, tally.now.reported[0].shown, book.unknown_reports) == ([], Arm(1, 1), 1)
    called(book, success=False)
    assert (arms(book)[0], tally.now.reported[0].shown) == (Arm(1, 0), Arm())


def test_an_amended_outcome_counts_as_amended(book: ExposureBook) -> None:
    """Once, by whichever of its names, also over a restart."""
    exposed(book)
    called(book, success=True)
    called(book, success=False, op_id="op-2", amends="op-1")
    assert arms(book)[0] == Arm(1, 0)
    again = ExposureBook()
    again.load(book.take_dirty())
    called(again, success=True, op_id="op-3", amends="op-2")
    assert arms(again)[0] == Arm(1, 1)
    called(again, success=False, op_id="op-4", amends="op-1 op-9")
    assert arms(again)[0] == Arm(1, 0)


def test_an_op_amends_sixteen_ids_at_most(book: ExposureBook) -> None:
    """With white space of any kind between: all that read the field read it alike."""
    exposed(book)
    called(book, success=True)
    others = " ".join(f"other-{number}" for number in range(16))
    called(book, success=False, op_id="op-2", amends=f"{others} op-1")
    assert arms(book)[0] == Arm(1, 1)
    called(book, success=False, op_id="op-3", amends="other\top-1")
    assert arms(book)[0] == Arm(1, 0)


def trials(book: ExposureBook) -> tuple[Trial, Trial]:
    tally = book.tally("pb-1")
    assert tally is not None
    return tally.now, tally.past


def test_an_outcome_belongs_to_the_trial_in_which_its_coin_fell(book: ExposureBook) -> None:
    """The entry is another treatment by then: what was open, reported or amended of the old one stays there."""
    for number in (1, 2, 3):
        exposed(book, task=f"t-{number}", exposure_id=f"ex-{number}")
    called(book, success=True)
    book.report(ReportedOutcome(exposure_id="ex-2", at=LATER, success=True))
    book.begin_anew("pb-1")
    exposed(book, task="t-9", exposure_id="ex-9")
    book.report(ReportedOutcome(exposure_id="ex-9", at=LATER, success=True))
    called(book, task="t-2", op_id="op-2", success=False)
    called(book, task="t-3", op_id="op-3", success=True)
    called(book, op_id="op-4", amends="op-1", success=False)
    now, past = trials(book)
    assert (now.strata, now.reported[0].shown, now.assigned.shown) == ([], Arm(1, 1), 1)
    assert (past.strata[0].shown, past.reported[0].shown, past.assigned.shown) == (Arm(3, 1), Arm(), 3)
    again = ExposureBook()
    again.load(book.take_dirty())
    called(again, task="t-9", op_id="op-9", success=False)
    called(again, task="t-3", op_id="op-5", amends="op-3", success=False)
    now, past = trials(again)
    assert (now.strata[0].shown, now.reported[0].shown, past.strata[0].shown) == (Arm(1, 0), Arm(), Arm(3, 0))


def test_what_was_offered_as_another_treatment_is_no_part_of_this_trial(book: ExposureBook) -> None:
    """Its coin was on its way into the journal when the entry changed."""
    exposed(book)
    book.begin_anew("pb-1")
    coins = [Assignment(playbook_id="pb-1", version=1, propensity=0.9, shown=True)]
    late = Exposure(exposure_id="ex-2", at=AT, until=UNTIL, endpoint="/fill", task="t-2", assignments=coins)
    book.expose(late, {"pb-1"})
    called(book, task="t-2", success=True)
    now, past = trials(book)
    assert (now, past.assigned.shown, [each.shown for each in past.strata]) == (Trial(), 2, [Arm(1, 1)])


@pytest.mark.parametrize("seed", range(20))
def test_arms_add_up_in_every_trial(book: ExposureBook, seed: int) -> None:
    """Assigned are those with an outcome, those only reported, those missing and those open, whatever comes when."""
    dice = Random(seed)
    for step in range(200):
        task, number = f"t-{dice.randrange(40)}", dice.randrange(100)
        if number < 40:
            exposed(book, task=task, exposure_id=f"ex-{task}", shown=dice.random() < 0.5, at=AT)
        elif number < 70:
            called(book, task=task, op_id=f"op-{step}", success=dice.random() < 0.5)
        elif number < 85:
            book.report(ReportedOutcome(exposure_id=f"ex-{task}", at=LATER, success=dice.random() < 0.5))
        elif number < 92:
            book.inform(InformedTask(task=task, at=AT))
        elif number < 97:
            called(book, op_id=f"op-{step}", amends=f"op-{dice.randrange(200)}", success=dice.random() < 0.5)
        else:
            book.begin_anew("pb-1")
    if seed % 2:
        list(book.close_overdue("2024-05-01T11:00:00.001Z"))
    tally = book.tally("pb-1")
    assert tally is not None
    for trial in trials(book):
        for shown in (True, False):
            coins = [book.coins(f"t-{number}").get("pb-1") for number in range(40)]
            mine = [coin for coin in coins if coin and coin.shown is shown and tally.trial(coin.epoch) is trial]
            seen, said = (
                [each.shown if shown else each.withheld for each in strata] for strata in (trial.strata, trial.reported)
            )
            assert sum(arm.tasks for arm in seen) == sum(coin.by == "op" for coin in mine)
            assert sum(arm.successes for arm in seen) == sum(coin.by == "op" and bool(coin.outcome) for coin in mine)
            assert sum(arm.tasks for arm in said) == sum(coin.by == "agent" for coin in mine)
            assert trial.missing[shown] == sum(coin.by == "none" for coin in mine)
            assert trial.assigned[shown] == len(mine)


def test_an_op_that_amends_what_was_no_outcome_may_be_one(book: ExposureBook) -> None:
    """The proxy saw the call without its task, and the agent's own event then named it."""
    exposed(book)
    called(book, task=None)
    called(book, op_id="op-2", amends="op-1", success=True)
    assert arms(book)[0] == Arm(1, 1)


@pytest.mark.parametrize(("coins", "shown"), [((True, False), True), ((False, False), False)])
def test_a_task_with_several_entries_counts_once_over_all(book: ExposureBook, coins: Any, shown: bool) -> None:
    """In the arm of those shown anything, as likely as that was; by its first exposure there; amended like others."""
    both = [
        Assignment(playbook_id=f"pb-{number}", version=1, propensity=propensity, shown=each)
        for number, (each, propensity) in enumerate(zip(coins, (0.9, 0.5), strict=True))
    ]
    exposed(book, assignments=both)
    exposed(
        book,
        exposure_id="ex-2",
        assignments=[*both, Assignment(playbook_id="pb-3", version=1, propensity=0.5, shown=True)],
    )
    assert book.open == 3
    called(book, success=True)
    again = ExposureBook()
    again.load(book.take_dirty())
    called(again, success=False, op_id="op-2", amends="op-1")
    for each, arm in ((book, Arm(1, 1)), (again, Arm(1, 0))):
        (tally,) = each.by_endpoint()
        (stratum,) = tally.now.strata
        assert stratum == Stratum(0.95, *((arm, Arm()) if shown else (Arm(), arm)))
        assert (tally.now.assigned[shown], tally.now.assigned[not shown], each.open) == (1, 0, 0)


def test_a_task_that_read_the_playbook_is_marked(book: ExposureBook) -> None:
    """Before its coin or after, once."""
    exposed(book)
    for task in ("t-1", "t-1", "t-2"):
        book.inform(InformedTask(task=task, at=AT))
    exposed(book, task="t-2", exposure_id="ex-2", shown=False)
    tally = book.tally("pb-1")
    assert tally is not None
    assert (tally.now.informed.shown, tally.now.informed.withheld) == (1, 1)


def test_units_are_bounded_and_what_goes_is_missing(book: ExposureBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recent task goes out with its open coin; nothing of it stays behind."""
    monkeypatch.setattr(module, "MAX_UNITS", 3)
    book = ExposureBook()
    for number in range(5):
        exposed(book, task=f"t-{number}", exposure_id=f"ex-{number}")
    tally = book.tally("pb-1")
    assert tally is not None
    assert (len(book), book.open, book.evicted, tally.now.missing.shown) == (3, 3, 2, 2)
    assert not book.knows("ex-0")
    assert book.knows("ex-4")


def test_an_op_that_cannot_be_read_costs_itself(book: ExposureBook) -> None:
    """And the next one is counted."""
    exposed(book)
    called(book, timestamp=5)
    assert book.not_counted == 1
    called(book)
    assert arms(book)[0] == Arm(1, 1)
