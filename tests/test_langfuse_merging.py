"""Each field of an observation is as it was told last, in whatever order the fragments come, and over restarts."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sidecar.langfuse.book import LangfuseBook, LangfuseDone
from sidecar.langfuse.merging import Merged, merged
from sidecar.model import Fragment, LangfuseTold
from tests.langfuse_batches import TRACE, at, begun, event, taken
from tests.observers import client, observer
from tests.test_langfuse_doors import ops

fragments = st.builds(
    Fragment,
    trace_id=st.just("t"),
    span_id=st.just("s"),
    told_ns=st.integers(0, 9),
    name=st.sampled_from(["", "a", "b"]),
    parent_span_id=st.sampled_from(["", "p", "q"]),
    start_ns=st.integers(0, 2),
    end_ns=st.integers(0, 2),
    attributes=st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3)),
)
tellings = st.lists(fragments, min_size=1, max_size=5, unique_by=lambda each: each.told_ns)


def said_last(told: list[Fragment]) -> Fragment:
    """What each field says that was told last, found by going through them in order."""
    whole = Fragment(trace_id="t", span_id="s", told_ns=0)
    for each in sorted(told, key=lambda each: each.told_ns):
        fields = ("told_ns", "name", "parent_span_id", "start_ns", "end_ns")
        new = {name: getattr(each, name) for name in fields if getattr(each, name)}
        whole = replace(whole, **new, attributes={**whole.attributes, **each.attributes})
    return whole


def named(attributes: dict[str, Any]) -> dict[str, Any]:
    """*attributes* as a trace may have them beside its observation's."""
    return {f"of {name}": value for name, value in attributes.items()}


def as_told(whole: Merged) -> Fragment:
    """*whole* without the times of its fields."""
    return Fragment(**{name: getattr(whole, name) for name in Fragment.__struct_fields__})


@given(tellings, st.data())
def test_fragments_merge_to_the_same_in_any_order(told: list[Fragment], data: st.DataObject) -> None:
    """The last word on each field counts, whenever it arrives; telling any of them again changes nothing."""
    whole: Merged | None = None
    for each in data.draw(st.permutations(told)):
        whole = merged(whole, each)
    assert whole is not None
    assert as_told(whole) == said_last(told)
    assert merged(whole, data.draw(st.sampled_from(told))) == whole
    assert len(whole.earlier_ns) <= 4 + len(whole.attributes)


@given(tellings, st.data())
def test_a_book_keeps_the_times_over_restarts(told: list[Fragment], data: st.DataObject) -> None:
    """Of observations and of traces, wherever between two messages it is saved and loaded."""
    book, restarts = LangfuseBook(), data.draw(st.sets(st.integers(0, 4)))
    for number, each in enumerate(data.draw(st.permutations(told))):
        of_trace = replace(each, span_id="", attributes=named(each.attributes))
        book.apply_told(msgspec.json.encode(LangfuseTold(taken_ns=9, by_field=True, fragments=[each, of_trace])))
        if number in restarts:
            rows, size, book = book.take_dirty(), book.open_bytes, LangfuseBook()
            book.load(rows)
            assert book.open_bytes == size
    ((_, row),) = book.open()
    last = said_last(told)
    assert book.whole(row).attributes == {**last.attributes, **named(last.attributes)}
    assert as_told(row.fragment) == last


def test_of_two_told_at_the_same_time_the_one_that_comes_last_counts() -> None:
    """And nothing is told after it came, of a trace neither."""
    one = Fragment(trace_id="t", span_id="s", told_ns=5, name="a")
    assert merged(merged(None, one), replace(one, name="b")).name == "b"
    book = LangfuseBook()
    for taken_ns, told_ns, user in ((7, 3600, "ann"), (8, 8, "bob")):
        of_trace = Fragment(trace_id="t", told_ns=told_ns, attributes={"user.id": user})
        book.apply_told(msgspec.json.encode(LangfuseTold(taken_ns=taken_ns, by_field=True, fragments=[of_trace, one])))
    ((_, row),) = book.open()
    assert book.whole(row).attributes == {"user.id": "bob"}


def test_a_row_of_an_earlier_version_counts_as_told_last() -> None:
    """It has no times of its fields: what it says stays until more is told, what it does not say is added."""
    row = {"fragment": {"trace_id": "t", "span_id": "s", "told_ns": 5, "name": "a"}, "since_ns": 5}
    book = LangfuseBook()
    book.load({"done/ts": msgspec.json.encode({"n": 1, "row": row})})
    more = Fragment(trace_id="t", span_id="s", told_ns=3, name="b", end_ns=9)
    book.apply_told(msgspec.json.encode(LangfuseTold(taken_ns=9, by_field=True, fragments=[more])))
    assert book.known(more) == Merged(
        trace_id="t", span_id="s", told_ns=5, name="a", end_ns=9, earlier_ns={"end_ns": 3}
    )


def test_a_journal_of_an_earlier_version_replays_to_what_that_version_had() -> None:
    """One time for the whole: a message before it was a repetition there, and no `langfuse_done` follows it."""
    book = LangfuseBook()
    first = Fragment(trace_id="t", span_id="s", told_ns=1, name="a", end_ns=9)
    told = (first, replace(first, told_ns=5, name="", attributes={"x": 1}), replace(first, told_ns=3, name="b"))
    for version, fragment in enumerate(told, 1):
        book.apply_told(msgspec.json.encode({"taken_ns": 9, "fragments": [fragment]}))
        if fragment is not told[-1]:
            book.apply_done(msgspec.json.encode(LangfuseDone([("ts", version)])))
    assert book.open_count == 0
    assert book.known(first) == replace(merged(None, first), told_ns=5, attributes={"x": 1})
    more = LangfuseTold(taken_ns=9, by_field=True, fragments=[replace(first, told_ns=6, name="c")])
    book.apply_told(msgspec.json.encode(more))
    assert [row.version for _, row in book.open()] == [3]


async def test_each_field_is_as_it_was_told_last_in_any_order(tmp_path: Path) -> None:
    """Three events, in one batch or one by one: the second's level is the last, and the third's output."""
    async with observer(tmp_path) as running, client(running) as http:
        for order in permutations(range(3)):
            for way in ("together", "apart"):
                name = way + "".join(map(str, order))
                told = (
                    begun(name, name=name, level="DEFAULT", output="first"),
                    event("span-update", 2, id=name, traceId=TRACE, level="WARNING", output="second"),
                    event("span-update", 4, id=name, traceId=TRACE, endTime=at(3), output="third"),
                )
                batch = [told[number] for number in order]
                for part in [batch] if way == "together" else [[each] for each in batch]:
                    await taken(http, *part)
    found = {op["endpoint"]: op for op in ops(tmp_path)}  # of each the latest
    found = {endpoint: op for endpoint, op in found.items() if endpoint != "step"}  # ended before it had a name
    assert len(found) == 12
    said = {(op["output_summary"], op["extra"]["langfuse.observation.level"]) for op in found.values()}
    assert said == {("third", "WARNING")}
