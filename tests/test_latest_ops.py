"""An op that a later one amends counts no more; which one that is follows from the journal alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model import ObservedOp, amended_ids
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from sidecar.store import latest_ops
from sidecar.store.journal_file import enveloped, record_of, sealed
from sidecar.store.latest_ops import LatestOps
from tests.fakes import an_op
from tests.strategies import ops


@contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def ids(ops: tuple[ObservedOp, ...] | None) -> list[str | None] | None:
    return [op.op_id for op in ops] if ops is not None else None


def test_the_last_word_is_taken_back_whichever_op_is_named() -> None:
    """Amending the first op or the latest of an operation is the same; each word is taken back once."""
    latest = LatestOps()
    assert ids(latest.take(an_op(op_id="a", success=False))) == []
    assert ids(latest.take(an_op(op_id="b", amends="a"))) == ["a"]
    assert ids(latest.take(an_op(op_id="c", amends="a"))) == ["b"]
    assert ids(latest.take(an_op(op_id="d", amends="c"))) == ["c"]
    assert [latest.later(name) is not None for name in "abcd"] == [True, True, True, False]
    assert latest.amended == 3


def test_several_ids_are_taken_back_together() -> None:
    """An op may show others to be one operation; from then on any of their names leads to it."""
    latest = LatestOps()
    for name in "abc":
        latest.take(an_op(op_id=name))
    assert ids(latest.take(an_op(op_id="ab", amends="a b a"))) == ["a", "b"]
    assert ids(latest.take(an_op(op_id="all", amends="a  c b ab"))) == ["ab", "c"]
    assert ids(latest.take(an_op(op_id="last", amends="ab b all"))) == ["all"]
    assert latest.unknown == 0


def test_as_many_ids_as_may_be_are_taken_back() -> None:
    """One op names sixteen at most; that there were more is counted, and an operation with white space is none."""
    latest, names = LatestOps(), [str(number) for number in range(17)]
    for name in names:
        latest.take(an_op(op_id=name))
    assert amended_ids(an_op(amends=" \t ")) == ()
    assert amended_ids(an_op(amends="a\tb  a\n")) == ("a", "b")
    assert ids(latest.take(an_op(op_id="x", amends=f" {' '.join(names[:16])} "))) == names[:16]
    assert latest.too_many == 0
    assert ids(latest.take(an_op(op_id="y", amends=f"{' '.join(names[:16])} 16"))) == ["x"]
    assert (latest.too_many, latest.later("16")) == (1, None)


def test_the_op_is_given_back_as_it_was() -> None:
    """What a book counted it takes back: every field is there."""
    op = an_op(op_id="a", success=False, error="closed", features={"n": 1, "x": 0.5, "y": True}, extra={"k": "é"})
    latest = LatestOps()
    latest.take(op)
    assert latest.take(an_op(op_id="b", amends="a")) == (op,)


@settings(max_examples=200, deadline=None)
@given(
    ops().map(Normalizer(Redactor()).op), st.sampled_from([b"", b'{"unsampled":true}', b'{"name":"a,\\"span\\":{"}'])
)
def test_the_journals_line_says_the_same_as_the_op(op: ObservedOp, envelope: bytes) -> None:
    """Live the line is at hand, in a replay the op: what is remembered, and so what is saved, is equal."""
    record = msgspec.json.encode(op)
    line = sealed(enveloped(record, envelope) if envelope else record)
    assert record_of(line) == record
    live, replayed = LatestOps(), LatestOps()
    live.take(op, line)
    replayed.take(op)
    assert live.take_dirty() == replayed.take_dirty()


def test_no_field_of_an_op_looks_like_the_envelope() -> None:
    """Whatever a sender calls its fields."""
    mark = ',"span":{"a":1}'
    op = an_op(op_id="a", error=mark, features={"a": mark, "span": mark, mark: 1}, extra={"b": 1, "span": 2})
    assert record_of(sealed(enveloped(msgspec.json.encode(op), b'{"kind":2}'))) == msgspec.json.encode(op)


def test_what_is_not_remembered_is_counted_as_unknown() -> None:
    """An op amends nothing by an id that was never here, by its own, or by that of an op too large to keep."""
    latest = LatestOps()
    latest.take(an_op(op_id="large", error="x" * latest_ops.LARGEST))
    for number, name in enumerate(["elsewhere", "self", "large"], 1):
        assert ids(latest.take(an_op(op_id=f"{name}-2" if name != "self" else "self", amends=name))) == []
        assert latest.unknown == number
    assert latest.later("large") is None


def test_an_op_that_is_journalled_again_is_none() -> None:
    """A batch sent again after a crash brings the same op ids: they count once."""
    latest = LatestOps()
    assert latest.take(an_op(op_id="a")) == ()
    assert latest.take(an_op(op_id="a", success=False)) is None
    assert latest.repeats == 1


def test_ops_without_an_id_can_amend_and_cannot_be_amended() -> None:
    """Nothing names them; a second amendment of the same op finds nothing left."""
    latest = LatestOps()
    latest.take(an_op(op_id="a"))
    assert ids(latest.take(an_op(amends="a"))) == ["a"]
    assert ids(latest.take(an_op(op_id="b", amends="a"))) == []
    assert latest.later("a") == ""


def test_memory_is_bounded_in_ops_and_bytes() -> None:
    """The oldest go first, whole blocks of them."""
    latest = LatestOps()
    for number in range(latest_ops.MOST_OPS + 1):
        latest.take(an_op(op_id=str(number)))
    assert len(latest) == latest_ops.MOST_OPS + 1 - latest_ops.BLOCK
    assert latest.take(an_op(op_id="late", amends="0")) == ()
    for number in range(200):
        latest.take(an_op(op_id=f"large {number}", error="x" * 60_000))
        assert latest._bytes <= latest_ops.MOST_BYTES + latest_ops.BLOCK * latest_ops.LARGEST
    for block in latest._blocks.values():
        block.unpack()
    assert latest._bytes == sum(
        len(bytes(known.op)) for known, _ in latest._known.values() if bytes(known.op) != b"null"
    )


def test_saving_copies_nothing_that_is_remembered() -> None:
    """At a thousand ops a second each save has all of the rows to write: they are there already, but for the newest."""
    latest = LatestOps()
    with _traced():
        for number in range(4000):
            latest.take(an_op(op_id=str(number), error=f"{number} " + "x" * 1000))
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        rows = latest.take_dirty()
        _, peak = tracemalloc.get_traced_memory()
    assert sum(map(len, rows.values())) > 4_000_000
    assert peak - before < 2 * latest_ops.BLOCK_BYTES


def test_ops_that_count_no_more_are_not_held() -> None:
    """Nor by the row that they are in: what is held is bounded by what counts, however rarely it is saved."""
    latest = LatestOps()
    with _traced():
        for number in range(0, 2000, 20):
            for each in range(20):
                latest.take(an_op(op_id=str(number + each), error=f"{number} " + "x" * 60_000))
            for each in range(20):
                latest.take(an_op(op_id=f"{number + each}'", amends=str(number + each)))
        held, _ = tracemalloc.get_traced_memory()
    assert len(latest) == 4000
    assert held < latest_ops.MOST_BYTES


def test_a_row_that_cannot_be_read_costs_itself() -> None:
    """The others are there, and the loss is counted."""
    latest = LatestOps()
    for number in range(3 * latest_ops.BLOCK):
        latest.take(an_op(op_id=str(number)))
    rows = latest.take_dirty()
    restored = LatestOps()
    restored.load({**rows, "2": b"{"})
    assert (len(restored), restored.unusable) == (2 * latest_ops.BLOCK, 1)


@st.composite
def journals(draw: st.DrawFn) -> list[ObservedOp]:
    """Ops some of which amend one or several of the ops before, some twice in the journal."""
    count = draw(st.integers(1, 40))
    name = st.integers(0, count).map(str)
    return [
        an_op(
            op_id=draw(st.one_of(st.just(str(number)), name, st.none())),
            success=draw(st.booleans()),
            amends=draw(st.one_of(st.none(), st.lists(name, min_size=1, max_size=3).map(" ".join))),
        )
        for number in range(count)
    ]


@settings(deadline=None)
@given(journals(), st.sets(st.integers(0, 40)), st.integers(1, 4), st.integers(4, 20))
def test_restarts_change_nothing(ops: list[ObservedOp], saves: set[int], block: int, most: int) -> None:
    """Saved and restored at any points, it says of each op what it would have said, and ends with the same rows."""
    was = latest_ops.BLOCK, latest_ops.MOST_OPS
    latest_ops.BLOCK, latest_ops.MOST_OPS = block, most  # type: ignore[misc]  # small, so that much is forgotten
    try:
        whole, restarted = LatestOps(), LatestOps()
        rows: dict[str, bytes] = {}
        for number, op in enumerate(ops):
            if number in saves:
                for _ in restarted.prepare():
                    pass
                rows.update(restarted.take_dirty())
                rows = {key: row for key, row in rows.items() if row}
                restarted = LatestOps()
                restarted.load(dict(reversed(rows.items())))
            assert restarted.take(op) == whole.take(op)
            assert restarted._bytes == whole._bytes
        rows.update(restarted.take_dirty())
        assert {key: row for key, row in rows.items() if row} == {
            key: row for key, row in whole.take_dirty().items() if row
        }
    finally:
        latest_ops.BLOCK, latest_ops.MOST_OPS = was  # type: ignore[misc]  # as it was


@settings(deadline=None)
@given(journals())
def test_each_op_is_taken_back_once_and_only_for_what_names_it(ops: list[ObservedOp]) -> None:
    """What is left is what no other took the place of."""
    latest, counted = LatestOps(), list[ObservedOp]()
    for op in ops:
        replaced = latest.take(op)
        if replaced is None:
            continue
        for each in replaced:
            counted.remove(each)
        counted.append(op)
    assert all(latest.later(op.op_id) is None for op in counted)
