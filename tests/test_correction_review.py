"""Corrections are linked to the failures before them and to what followed; three alike are an incident."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from sidecar.analysis.correction_review import ALIKE, FOLLOWED, MAX_CORRECTIONS, MAX_DIFFERENT, CorrectionReview
from sidecar.analysis.incidents import IncidentBook
from sidecar.model import ObservedOp
from tests.fakes import an_op
from tests.observers import client, cycle, observer


def a_correction(text: str = "use certified workers in NV", number: int = 900, **fields: object) -> ObservedOp:
    plain = {"source": "overseer_correction", "task_class": "staffing.fill", "correction": text}
    return an_op(**{**plain, "trace_id": f"{number:032x}", "span_id": f"{number:016x}", **fields})


def a_call(number: int, success: bool, **fields: object) -> ObservedOp:
    plain = {"task_class": "staffing.fill", "trace_id": f"{number:032x}", "span_id": f"{number:016x}"}
    return an_op(**{**plain, "success": success, "error": None if success else "no seat", **fields})


def reviewed(*ops: ObservedOp) -> tuple[IncidentBook, CorrectionReview]:
    book = IncidentBook()
    review = CorrectionReview(book)
    for op in ops:
        book.consume(op)
        review.consume(op)
    return book, review


def test_a_correction_is_linked_to_the_failures_before_it_and_what_follows_is_counted() -> None:
    """The last failures of its kind, the base rate before, and k of the next n; nothing says that it was proven."""
    before = [a_call(number, success=number % 4 == 0) for number in range(1, 13)]
    after = [a_call(100 + number, success=number % 3 > 0) for number in range(9)]
    _, review = reviewed(*before, a_correction(), *after)
    (shown,) = review.reviews()
    (one,) = shown["reviews"]
    assert (shown["kind"], shown["corrections"], one["correction"]) == (
        "task_class:staffing.fill",
        1,
        "use certified workers in NV",
    )
    assert [int(trace_id, 16) for trace_id, _ in one["failures"]] == [6, 7, 9, 10, 11]
    assert (one["before"], one["before_of"], one["succeeded"], one["followed"]) == (3, 12, 6, 9)
    assert shown["followed"] == {"succeeded": 6, "of": 9}
    assert "no proof" in shown["note"]
    assert "validated" not in json.dumps(shown)


def test_what_follows_ends_and_is_of_the_same_kind() -> None:
    """Twenty operations, by task class or by sig_hash; others do not count."""
    calls = [a_call(number, success=True) for number in range(3 * FOLLOWED)]
    others = [a_call(500 + number, success=False, task_class="other") for number in range(30)]
    hashed = [an_op(sig_hash="h1", success=False, error="x") for _ in range(5)]
    _, review = reviewed(a_correction(sig_hash="h1"), *calls, *others, *hashed)
    kinds = {shown["kind"]: shown["followed"] for shown in review.reviews()}
    assert kinds == {
        "task_class:staffing.fill": {"succeeded": FOLLOWED, "of": FOLLOWED},
        "sig_hash:h1": {"succeeded": 0, "of": 5},
    }


def test_the_third_of_corrections_alike_is_an_incident_and_all_after_it() -> None:
    """Particulars do not tell them apart; another task class and another text do."""
    alike = [a_correction(f"shift {number} needs a certificate", number) for number in range(1, ALIKE + 2)]
    book, _ = reviewed(
        *alike[:2], a_correction("shift 7 needs a certificate", task_class="other"), a_correction("be polite")
    )
    assert len(book) == 0
    book, _ = reviewed(*alike)
    (incident,) = book.incidents()
    assert (incident.kind, incident.count, incident.state) == ("recurring_correction", 2, "new")
    assert incident.message == "recurring correction: likely a data gap, not drift: shift <num> needs a certificate"
    assert incident.by_source == {"overseer_correction": 2}
    assert incident.samples[-1].endswith("shift 4 needs a certificate")


def test_state_is_bounded_and_restored() -> None:
    """However many corrections say something else; a restart in between changes nothing."""
    ops = [
        a_correction(f"text {chr(97 + number % 26)}{chr(97 + number // 26)} is wrong", number) for number in range(600)
    ]
    ops += [a_call(number, success=False) for number in range(40)]
    book, review = reviewed(*ops[:300])
    restored = CorrectionReview(book)
    restored.load(review.take_dirty())
    for op in ops[300:]:
        restored.consume(op)
    _, straight = reviewed(*ops)
    assert restored.reviews() == straight.reviews()
    (kind,) = (msgspec.json.decode(body)["row"] for body in straight.take_dirty().values())
    assert (len(kind["reviews"]), kind["corrections"]) == (MAX_CORRECTIONS, 600)
    assert len(kind["alike"]) <= MAX_DIFFERENT


def test_an_op_that_cannot_be_read_costs_itself() -> None:
    """The next one counts."""
    broken = msgspec.structs.replace(a_correction(), correction=5)  # what a bug might hand us
    _, review = reviewed(broken, a_correction())
    assert (review.not_counted, review.reviews()[0]["corrections"]) == (1, 1)


async def test_recurring_corrections_reach_the_doors(tmp_path: Path) -> None:
    """`/corrections` tells of them, `/incidents` has the gap, which is diagnosed; so it is after a restart."""
    rows = [
        {"task_class": "staffing.fill", "correction": f"worker {number} lacks the NV certificate"}
        for number in range(4)
    ]
    (tmp_path / "corrections.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    event = {"endpoint": "/fill", "task_class": "staffing.fill", "success": False, "error": "no certificate"}
    async with observer(tmp_path) as running, client(running) as door:
        await door.post("/event", json=event)
        await cycle(running)
        await door.post("/event", json={**event, "success": True})
        await cycle(running)
        (shown,) = (await door.get("/corrections")).json()["corrections"]
        assert (shown["corrections"], shown["followed"]) == (4, {"succeeded": 4, "of": 4})
        assert len(shown["reviews"][0]["failures"]) == 1
        kinds = {each["kind"]: each for each in (await door.get("/incidents")).json()["incidents"]}
        assert kinds["recurring_correction"]["count"] == 2
        assert kinds["recurring_correction"]["finding"]["cause"].startswith("The same correction is made again")
    async with observer(tmp_path) as running, client(running) as door:
        assert (await door.get("/corrections")).json()["corrections"] == [shown]


def test_what_a_later_op_amends_is_taken_out_again() -> None:
    """A score that came late turns a success into a failure: counted once, as it is now."""
    _, review = reviewed(a_call(1, success=True), a_correction(), a_call(2, success=True))
    review.retract(a_call(2, success=True))
    review.consume(a_call(2, success=False))
    (shown,) = review.reviews()
    assert (shown["operations"], shown["successes"], shown["followed"]) == (2, 1, {"succeeded": 0, "of": 1})
    review.retract(a_correction())
    assert review.reviews()[0]["corrections"] == 1
