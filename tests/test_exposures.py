"""Exposures and their outcomes: one coin and one outcome a task, as assigned, in time, and put right when amended."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.advice import exposures as module
from sidecar.advice.exposures import ExposureBook
from sidecar.advice.uplift import Arm
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


def arms(book: ExposureBook) -> tuple[Arm, Arm]:
    tally = book.tally("pb-1")
    assert tally is not None
    shown, withheld = Arm(), Arm()
    for stratum in tally.strata:
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
    assert (tally.missing.withheld, tally.assigned.withheld, book.open) == (1, 1, 0)
    called(book, timestamp="2024-05-01T10:30:00.000Z")
    assert arms(book)[1] == Arm()


def test_a_report_counts_apart_until_a_call_is_seen(book: ExposureBook) -> None:
    """Then the call counts and the report does not; an unknown exposure's report is counted as such."""
    exposed(book)
    book.report(ReportedOutcome(exposure_id="ex-1", at=LATER, success=True))
    book.report(ReportedOutcome(exposure_id="ex-9", at=LATER, success=True))
    tally = book.tally("pb-1")
    assert tally is not None
    assert (tally.strata, tally.reported[0].shown, book.unknown_reports) == ([], Arm(1, 1), 1)
    called(book, success=False)
    assert (arms(book)[0], tally.reported[0].shown) == (Arm(1, 0), Arm())


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


def test_an_op_that_amends_what_was_no_outcome_may_be_one(book: ExposureBook) -> None:
    """The proxy saw the call without its task, and the agent's own event then named it."""
    exposed(book)
    called(book, task=None)
    called(book, op_id="op-2", amends="op-1", success=True)
    assert arms(book)[0] == Arm(1, 1)


def test_a_task_that_read_the_playbook_is_marked(book: ExposureBook) -> None:
    """Before its coin or after, once."""
    exposed(book)
    for task in ("t-1", "t-1", "t-2"):
        book.inform(InformedTask(task=task, at=AT))
    exposed(book, task="t-2", exposure_id="ex-2", shown=False)
    tally = book.tally("pb-1")
    assert tally is not None
    assert (tally.informed.shown, tally.informed.withheld) == (1, 1)


def test_units_are_bounded_and_what_goes_is_missing(book: ExposureBook, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recent task goes out with its open coin; nothing of it stays behind."""
    monkeypatch.setattr(module, "MAX_UNITS", 3)
    book = ExposureBook()
    for number in range(5):
        exposed(book, task=f"t-{number}", exposure_id=f"ex-{number}")
    tally = book.tally("pb-1")
    assert tally is not None
    assert (len(book), book.open, book.evicted, tally.missing.shown) == (3, 3, 2, 2)
    assert not book.knows("ex-0")
    assert book.knows("ex-4")


def test_an_op_that_cannot_be_read_costs_itself(book: ExposureBook) -> None:
    """And the next one is counted."""
    exposed(book)
    called(book, timestamp=5)
    assert book.not_counted == 1
    called(book)
    assert arms(book)[0] == Arm(1, 1)
