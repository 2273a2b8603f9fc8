"""Whatever an event, a score or a pulled row holds, it is read or refused; what was read is in the normal form."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.clock import SystemClock
from sidecar.errors import InvalidInputError
from sidecar.gateway.route_template import Templates
from sidecar.langfuse.book import LangfuseBook, score_key
from sidecar.langfuse.score_rules import ScoreRules
from sidecar.model import LangfuseTold, Score
from sidecar.normalize import Normalizer
from sidecar.receivers.langfuse_batches import EventBatch
from sidecar.receivers.langfuse_events import KINDS, OBSERVATION_TYPES, LangfuseReader
from sidecar.redaction import Redactor
from sidecar.spans.conventions import SpanConventions
from sidecar.spans.conventions_table import KINDS as CONVENTIONS
from sidecar.spans.fragment_reader import FragmentReader
from tests.strategies import texts, values

NORMALIZER = Normalizer(Redactor())
READER = LangfuseReader(NORMALIZER)
OPS = FragmentReader(SpanConventions(NORMALIZER, list, Templates(), SystemClock()))
NOW_NS = 1_769_847_300_000_000_000
EVENTS = (*KINDS, "score", "sdk", "dataset-run-item")

times = st.sampled_from(["2026-01-31T08:15:00.000Z", "2026-01-31T08:15:01+02:00", "0001-01-01T00:00:00", "9999-12-31"])
ids = st.sampled_from(["a", "0" * 16, "0123456789abcdef", "0123456789abcdef0123456789abcdef", "\ud800", "x" * 300])
FIELDS = {
    **dict.fromkeys(["id", "traceId", "parentObservationId", "observationId", "sessionId"], ids),
    **dict.fromkeys(["startTime", "endTime", "timestamp", "updatedAt"], times),
    **dict.fromkeys(["name", "userId", "model", "statusMessage", "comment", "traceName"], texts),
    **dict.fromkeys(["input", "output", "modelParameters", "usage", "usageDetails", "costDetails", "value"], values),
    "type": st.sampled_from(["TOOL", "GENERATION", "AGENT", "SPAN", "", "new"]),
    "level": st.sampled_from(["ERROR", "DEFAULT", "WARNING", "odd"]),
    "dataType": st.sampled_from(["NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION"]),
    "subject": st.fixed_dictionaries({"kind": st.sampled_from(["trace", "observation", "x"]), "id": ids}),
}
bodies = st.fixed_dictionaries({}, optional=FIELDS)
strange = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, values))
events = st.fixed_dictionaries(
    {"id": ids},
    optional={
        "type": st.builds("{}-{}".format, st.sampled_from(EVENTS), st.sampled_from(["create", "update", "log"])),
        "timestamp": times | values,
        "body": bodies | strange | values,
    },
)


@settings(max_examples=60)
@given(st.lists(events | values, max_size=6))
@example([{"id": "a", "type": "span-create", "body": {"id": "a", "input": [[[[[]]]]] * 50, "name": "n" * 5000}}])
def test_every_item_of_a_batch_is_taken_or_named(items: list[Any]) -> None:
    """None of them breaks the batch; what was taken is an op that the normal form leaves as it is."""
    batch = EventBatch(READER, NOW_NS)
    for item in items:
        batch.read(item)
    assert len(batch.successes) + len(batch.errors) == len(items)
    msgspec.json.encode([batch.told(), batch.successes, batch.errors])
    for fragment in batch.fragments:
        op = OPS.op_of(fragment) if fragment.span_id else None
        assert op is None or NORMALIZER.op(op) == op
    rules = ScoreRules("*<0.5,n=x", ["fail"])
    for score in batch.scores:
        rules.failed(score)
        assert score_key(score).startswith("langfuse-score:")


def test_every_type_of_observation_may_be_told_as_an_event() -> None:
    """Those that spans may have, and no others."""
    assert set(OBSERVATION_TYPES) == set(CONVENTIONS["langfuse.observation.type"].kinds)


@settings(max_examples=60)
@given(bodies | strange)
def test_every_pulled_row_is_read_or_refused(row: dict[str, Any]) -> None:
    """As an observation and as a score."""
    for read in (lambda: READER.fragment("observation", row, NOW_NS), lambda: READER.score(row, NOW_NS)):
        try:
            read()
        except InvalidInputError:
            continue


def test_a_score_of_an_older_journal_is_done_under_its_old_key() -> None:
    """Its decisions have no time of the telling: a replay finishes what they finished."""
    book, said = LangfuseBook(), {"score_id": "s", "name": "n", "at": "t", "data_type": "BOOLEAN", "value": False}
    book.apply_told(msgspec.json.encode({"taken_ns": 1, "scores": [said]}))
    assert book.waiting_count == 1
    book.apply_done(msgspec.json.encode({"scores": [score_key(msgspec.convert(said, Score))]}))
    assert (book.waiting_count, score_key(msgspec.convert(said, Score)).count(":")) == (0, 2)


tellings = st.builds(
    Score,
    score_id=st.just("s"),
    name=st.just("n"),
    at=st.just("t"),
    data_type=st.just("BOOLEAN"),
    value=st.booleans(),
    told_ns=st.integers(1, 9),
)


@given(st.lists(tellings, min_size=1, max_size=6, unique_by=lambda each: each.told_ns), st.data())
def test_the_last_word_on_a_score_is_the_one_told_last(told: list[Score], data: st.DataObject) -> None:
    """In whatever order and batches they come; a batch that comes again changes nothing, and waits for no op."""
    book, coming = LangfuseBook(), data.draw(st.permutations(told))
    batches = [coming[:1], coming[1:3], coming[3:]]
    for number, scores in enumerate(batches, 10):
        book.apply_told(msgspec.json.encode(LangfuseTold(taken_ns=number, scores=scores)))
    last = max(told, key=lambda each: each.told_ns)
    assert book.waiting()[-1][1].score.value == last.value
    waiting = book.waiting_count
    for number, scores in enumerate(batches, 20):
        assert book.later(scores, number) == []
        book.apply_told(msgspec.json.encode(LangfuseTold(taken_ns=number, scores=scores)))
    assert book.waiting_count == waiting


def test_a_clock_that_was_set_back_keeps_no_score_from_changing() -> None:
    """What was taken an hour ahead is not later than what is taken now."""
    book, one = LangfuseBook(), Score(score_id="s", name="n", at="t", data_type="BOOLEAN", value=True, told_ns=3600)
    book.apply_told(msgspec.json.encode(LangfuseTold(taken_ns=3600, scores=[one])))
    other = replace(one, value=False, told_ns=5)
    assert [each.score for each in book.later([other], 5)] == [other]
    assert book.later([other, one], 3601) == []


def test_a_book_that_reads_nonsense_stays_as_it_is() -> None:
    """Rows of another version are counted, not fatal."""
    book = LangfuseBook()
    book.load({"open/x": b"{}", "score/y": b"nonsense", "else/z": b"1"})
    assert (book.unusable, book.open_count, book.waiting_count) == (2, 0, 0)
