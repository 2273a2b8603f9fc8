"""Failures become incidents; successes only tell what is normal."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.incident_rows import MAX_COUNTED, OTHER, Mark, Step, failure_line
from sidecar.analysis.incidents import MAX_INCIDENTS, IncidentBook
from sidecar.model import Incident, ObservedOp
from tests.fakes import an_op

HOSTILE = ["constructor", "__proto__", "", "x" * 1_000_000, "\ud800\0", "hasOwnProperty"]


def a_failure(number: int = 1, **fields: object) -> ObservedOp:
    plain = {
        "success": False,
        "error": "city closed",
        "op_id": f"op-{number}",
        "trace_id": f"{number:032x}",
        "span_id": f"{number:016x}",
        "timestamp": f"2024-05-01T10:{number // 60:02}:{number % 60:02}.000Z",
    }
    return an_op(**{**plain, **fields})


def book_of(*ops: ObservedOp) -> IncidentBook:
    book = IncidentBook()
    for op in ops:
        book.consume(op)
    return book


def a_mark(count: int, by: str = "statistics", text: str = "because") -> Mark:
    return Mark(count, 1, "2024-05-01T10:00:00.000Z", f"dg-{text}", by, text)


def only(book: IncidentBook) -> Incident:
    (incident,) = book.incidents()
    return incident


def test_failures_alike_are_one_incident_with_its_counts() -> None:
    """Counts by source, role, city, staffer and sig_hash are those of the failures."""
    book = book_of(
        a_failure(1, source="scenario", role="welder", city="Reno", staffer_id="s1", sig_hash="h1"),
        a_failure(2, source="mcp", role="welder", city="Elko", staffer_id="s1"),
        a_failure(3),
        an_op(source="scenario"),
    )
    incident = only(book)
    assert (incident.count, incident.message, incident.endpoint) == (3, "city closed", "/fill")
    assert incident.by_source == {"scenario": 1, "mcp": 2}
    assert incident.by_role == {"welder": 2}
    assert incident.by_city == {"Reno": 1, "Elko": 1}
    assert (incident.by_staffer, incident.by_sig_hash) == ({"s1": 2}, {"h1": 1})
    assert book.get(incident.fingerprint) is incident
    assert book.last_op_id == "op-3"


def test_a_correction_is_neither_success_nor_failure() -> None:
    """Overseer rows change no count, whatever they say of success."""
    book = book_of(a_failure(source="overseer_correction"), an_op(source="overseer_correction"))
    assert (len(book), book.take_dirty()) == (0, {})


def test_seen_times_are_those_of_the_events() -> None:
    """A failure that arrives late moves `first_seen`, not `last_seen`; time zones are compared as instants."""
    book = book_of(
        a_failure(5, timestamp="2024-05-01T10:00:00.000Z"),
        a_failure(6, timestamp="2024-05-01T09:00:00.000Z"),
        a_failure(7, timestamp="2024-05-01T11:30:00.000+02:00"),
    )
    incident = only(book)
    assert (incident.first_seen, incident.last_seen) == ("2024-05-01T09:00:00.000Z", "2024-05-01T10:00:00.000Z")
    assert incident.evidence[0] == (f"{6:032x}", f"{6:016x}")
    assert incident.evidence[-1] == (f"{5:032x}", f"{5:016x}")


def test_evidence_keeps_the_order_of_events_when_they_arrive_late() -> None:
    """An earlier failure goes before the first, one between goes between, one without ids changes nothing."""
    at = "2024-05-01T{}:00:00.000Z".format
    book = book_of(
        a_failure(12, timestamp=at(12)),
        a_failure(10, timestamp=at(10)),
        a_failure(11, timestamp=at(11)),
        a_failure(13, timestamp=at(13), span_id=None),
        a_failure(9, timestamp=at("09")),
    )
    incident = only(book)
    assert [int(trace_id, 16) for trace_id, _ in incident.evidence] == [9, 11, 12]
    assert (incident.first_seen, incident.last_seen) == (at("09"), at(13))


def test_late_failures_do_not_push_out_the_evidence() -> None:
    """When there is no room, one between is not kept."""
    late = a_failure(500, timestamp="2024-05-01T10:00:01.500Z")
    book = book_of(*(a_failure(number) for number in range(1, 601)), late)
    incident = only(book)
    assert (incident.count, len(incident.evidence), incident.evidence[-1][0]) == (601, 10, f"{600:032x}")


def test_an_endpoint_is_as_recent_as_its_last_success() -> None:
    """By event time, so that restored endpoints leave in the right order."""
    book = book_of(an_op(), an_op(timestamp="2024-05-01T12:00:00.000Z"), an_op(timestamp="2024-05-01T11:00:00.000Z"))
    assert b'"last_seen":"2024-05-01T12:00:00.000Z"' in book.take_dirty()["endpoint//fill"]


def test_a_time_that_is_none_costs_nothing() -> None:
    """Texts that are no times are compared as texts."""
    assert only(book_of(a_failure(1, timestamp="later"), a_failure(2, timestamp="soon"))).count == 2


def test_evidence_is_the_first_the_last_and_some_between() -> None:
    """However many fail, at most ten spans are kept, the first and the last among them, in order."""
    incident = only(book_of(*(a_failure(number) for number in range(1, 3001))))
    numbers = [int(trace_id, 16) for trace_id, _ in incident.evidence]
    assert (numbers[0], numbers[-1], len(numbers)) == (1, 3000, 10)
    assert numbers == sorted(set(numbers))


def test_samples_are_the_last_ten_different_lines() -> None:
    """Each is `[endpoint] input_summary: error`, bounded, on one line."""
    ops = [a_failure(number, input_summary=f"try {number // 2}") for number in range(60)]
    assert only(book_of(*ops)).samples == [f"[/fill] try {number}: city closed" for number in range(20, 30)]
    long = failure_line(a_failure(endpoint="e" * 999, input_summary="i" * 999, error="one\ntwo" + "x" * 999))
    assert len(long) == 300
    assert "one two" in long


def test_counts_are_bounded_and_say_so() -> None:
    """Values beyond the bound are counted together."""
    incident = only(book_of(*(a_failure(number, city=f"c{number}") for number in range(MAX_COUNTED + 8))))
    assert len(incident.by_city) == MAX_COUNTED + 1
    assert incident.by_city[OTHER] == 8


def test_the_least_recently_seen_incident_goes_out_counted() -> None:
    """A thousand are kept; a new failure of an old one keeps it in."""
    book = book_of(*(a_failure(number, endpoint=f"/e{number}") for number in range(MAX_INCIDENTS)))
    book.consume(a_failure(endpoint="/e0"))
    book.consume(a_failure(endpoint="/new"))
    endpoints = {incident.endpoint for incident in book.incidents()}
    assert (len(book), book.evicted) == (MAX_INCIDENTS, 1)
    assert {"/e0", "/new"} <= endpoints
    assert "/e1" not in endpoints


@pytest.mark.parametrize("endpoint", HOSTILE)
def test_a_hostile_endpoint_is_an_endpoint(endpoint: str) -> None:
    """It is counted like any other, and can be saved and restored."""
    book = book_of(a_failure(endpoint=endpoint), an_op(endpoint=endpoint), a_failure(endpoint=endpoint))
    assert only(book).count == 2
    restored = IncidentBook()
    restored.load(book.take_dirty())
    assert only(restored) == only(book)
    assert book.not_counted == 0


def test_an_op_that_cannot_be_read_costs_itself() -> None:
    """The next op is counted all the same."""
    broken = msgspec.structs.replace(a_failure(), error=5)  # what a bug might hand us
    book = book_of(broken, a_failure())
    assert (book.not_counted, only(book).count) == (1, 1)


def test_an_incident_is_due_when_new_and_whenever_it_has_doubled() -> None:
    """One failure is due at once; then 2, 4, 8 …: each diagnosis waits for as many failures again."""
    book, marked = IncidentBook(), []
    for number in range(1, 41):
        book.consume(a_failure(number))
        for incident in book.due():
            book.mark(incident.fingerprint, a_mark(incident.count))
            marked.append(incident.count)
    assert marked == [1, 2, 4, 8, 16, 32]
    assert (only(book).diagnosis, only(book).diagnosed_by) == ("because", "statistics")


def test_those_with_most_new_failures_come_first() -> None:
    """What is due is ordered by how much of it has not been explained."""
    book = book_of(*(a_failure(number, endpoint=f"/e{number % 3 % 2}") for number in range(9)))
    assert [incident.endpoint for incident in book.due()] == ["/e0", "/e1"]


def test_what_is_common_to_failures_and_not_to_successes_is_found() -> None:
    """Nine of ten failures and at most one of ten successes: the field is named, with both counts."""
    book = book_of(
        *(a_failure(n, state="NV" if n else "CA", role="welder", features={"certified": False}) for n in range(10)),
        *(an_op(state="NV" if n == 0 else "CA", role="welder", features={"certified": True}) for n in range(20)),
    )
    assert [tuple(each) for each in book.common(only(book))] == [
        ("certified", "false", 10, 0),
        ("state", "NV", 9, 1),
    ]


def test_too_little_is_no_pattern() -> None:
    """Two failures, or four successes, say nothing yet; nor does an unknown incident."""
    few_failures = book_of(a_failure(1, state="NV"), a_failure(2, state="NV"), *(an_op() for _ in range(9)))
    few_successes = book_of(*(a_failure(n, state="NV") for n in range(9)), *(an_op() for _ in range(4)))
    assert few_failures.common(only(few_failures)) == []
    assert few_successes.common(only(few_successes)) == []
    assert IncidentBook().common(only(few_failures)) == []


def test_saved_rows_restore_the_same_book_in_any_order() -> None:
    """Rows come back in whatever order; so do the marks of past diagnoses, before or after them."""
    book = book_of(*(a_failure(n, endpoint=f"/e{n % 5}", state="NV") for n in range(60)), *(an_op() for _ in range(9)))
    target = book.incidents()[0].fingerprint
    rows = list(book.take_dirty().items())
    marks = [a_mark(4, text="early"), a_mark(12, "qwen2.5", "late"), a_mark(12, "qwen2.5", "later")]
    found = []
    for seed, order in enumerate(permutations(["rows", *marks])):
        random.Random(seed).shuffle(rows)
        restored = IncidentBook()
        for step in order:
            if isinstance(step, Mark):
                restored.mark(target, step)
            else:
                restored.load(dict(rows))
        found.append(restored.incidents())
    assert all(each == found[0] for each in found)
    assert [each.fingerprint for each in found[0]] == [each.fingerprint for each in book.incidents()]
    assert (found[0][0].diagnosed_count, found[0][0].diagnosis) == (12, "later")


def test_a_mark_waits_for_the_failure_it_is_about() -> None:
    """A diagnosis read back before its failures is not asked for again."""
    fingerprint_id = only(book_of(a_failure())).fingerprint
    book = IncidentBook()
    book.mark(fingerprint_id, a_mark(3))
    for number in range(3):
        book.consume(a_failure(number))
    assert book.due() == []
    assert only(book).diagnosis == "because"


def test_marks_that_wait_are_bounded() -> None:
    """Of the marks that nothing came for, the newest thousand stay."""
    book = IncidentBook()
    target = only(book_of(a_failure())).fingerprint
    book.mark(target, a_mark(1))
    for number in range(MAX_INCIDENTS):
        book.mark(f"gone-{number}", a_mark(1))
    book.consume(a_failure())
    assert only(book).diagnosis is None


def test_only_what_changed_is_saved_and_a_failed_save_comes_again() -> None:
    """`take_dirty` empties the list; `put_back` fills it with what was not saved."""
    book = book_of(a_failure(endpoint="/a"), an_op(endpoint="/b"))
    first = book.take_dirty()
    assert sorted(key.partition("/")[0] for key in first) == ["endpoint", "incident", "template"]
    assert book.take_dirty() == {}
    book.put_back(first)
    assert book.take_dirty() == first
    book.mark(book.incidents()[0].fingerprint, a_mark(1))
    assert [key.partition("/")[0] for key in book.take_dirty()] == ["incident"]


NAMES = ["Ann", "Bob", "Cy", "Dee", "Eve", "Flo", "Gus", "Hal"]


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=60), st.integers(0, 60))
def test_incidents_that_a_template_joins_lose_nothing(names: list[str], cut: int) -> None:
    """Counts, times, field values and timeline add up; old fingerprints lead to the one, also after a restart."""
    failures = [
        a_failure(number, error=f"worker {name} is not certified", role=name, city="Reno")
        for number, name in enumerate(names, 1)
    ]
    keys: set[str] = set()
    book = IncidentBook()
    for number, op in enumerate(failures):
        if number == cut:
            restored = IncidentBook()
            restored.load(book.take_dirty())
            book = restored
        book.consume(op)
        keys |= {incident.fingerprint for incident in book.incidents()}
    incidents = book.incidents()
    assert len(incidents) == (1 if len(set(names)) >= 4 else len(set(names)))
    assert sum(incident.count for incident in incidents) == len(names)
    assert Counter(names) == sum((Counter(incident.by_role) for incident in incidents), Counter())
    assert sum(row.timeline.days.between(0, 10**6) for row in book.rows()) == len(names)
    assert sum(row.counts.values["city"]["Reno"] for row in book.rows()) == len(names)
    assert min(incident.first_seen for incident in incidents) == failures[0].timestamp
    assert max(incident.last_seen for incident in incidents) == failures[-1].timestamp
    traces = {trace_id for incident in incidents for trace_id, _ in incident.evidence}
    assert {failures[0].trace_id, failures[-1].trace_id} <= traces
    assert all(book.get(key) in incidents for key in keys)


def test_joined_incidents_keep_their_diagnosis_history_and_what_waits_for_them() -> None:
    """The highest diagnosis and the latest decision hold; what comes late under an old fingerprint finds it."""
    ops = [a_failure(number, error=f"worker {name} is not certified") for number, name in enumerate(NAMES[:4], 1)]
    book = book_of(*ops[:3])
    keys = [incident.fingerprint for incident in reversed(book.incidents())]
    for number, key in enumerate(keys):
        book.mark(key, a_mark(number + 1, text=f"text {number}"))
        book.decide(key, Step(f"2024-05-01T1{number}:30:00.000Z", "ongoing", "ann", f"note {number}"))
    book.consume(ops[3])
    incident = only(book)
    assert (incident.diagnosis, incident.diagnosed_count, incident.note) == ("text 2", 3, "note 2")
    assert len(book.rows()[0].history) == 3
    book.decide(keys[1], Step("2024-05-01T20:00:00.000Z", "ignored", "bob"))
    assert (only(book).state, book.get(keys[2]) is only(book)) == ("ignored", True)
