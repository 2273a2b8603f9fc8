"""What is remembered of ops that scores judge: bounded, whatever is said of them."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from sidecar.ids import new_id
from sidecar.langfuse.book import SCORE_EVENT
from sidecar.langfuse.judged_ops import MOST_BYTES, MOST_OPS, JudgedOps
from sidecar.langfuse.judgements import Judgement
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from tests.fakes import an_op

TRACE = "0af7651916cd43dd8448eb211c80319c"


def remembered() -> JudgedOps:
    return JudgedOps(Normalizer(Redactor()), lambda _op_id: True)


def observed(number: int, **more: Any) -> ObservedOp:
    return an_op(source="langfuse", op_id=new_id(), trace_id=TRACE, span_id=f"{number:016x}", **more)


def judge(ops: JudgedOps, number: int, *given: Judgement) -> None:
    """Let *given* judge op *number*, as settled ops do."""
    for each in given:
        row = ops.find(TRACE, f"{number:016x}")
        assert row is not None
        op_id = new_id()
        said = ops.amended(row, row.own, each)
        ops.consume(replace(said, op_id=op_id, event_id=f"{SCORE_EVENT}{op_id}", span_id=op_id[:16]))


def test_long_comments_take_room() -> None:
    """Scores count among the bytes: ops that were judged at length leave room to fewer."""
    ops = remembered()
    count = MOST_BYTES // 20_000
    for number in range(count):
        ops.consume(observed(number))
        judge(ops, number, *(Judgement(f"score {each}", 1, "x" * 2000, None) for each in range(15)))
    assert 0 < len(ops) <= MOST_BYTES // 30_000
    assert ops.find(TRACE, f"{count - 1:016x}") is not None


def test_what_was_forgotten_is_held_by_no_other_name() -> None:
    """Spans that stood for an op go with it, and take room while it is there; the span's id alone finds the newest."""
    ops = remembered()
    first, second = observed(1), observed(1)
    ops.consume(first)
    empty = ops.held_bytes
    for number in range(100, 200):
        ops.absorbed(observed(number), first)
    assert ops.held_bytes > empty + 100 * len(new_id())
    ops.consume(replace(second, trace_id="f" * 32))
    assert ops.find(TRACE, f"{150:016x}") is ops.find(TRACE, f"{1:016x}")
    newest = ops.find("", f"{1:016x}")
    assert newest is not None
    assert newest.trace_id == "f" * 32
    for number in range(2, 13):
        ops.consume(observed(number, input_summary="y" * (MOST_BYTES // 10)))
    assert all(ops.find(TRACE, f"{number:016x}") is None for number in (1, 100, 150, 199))
    assert ops.find("", f"{1:016x}") is None
    assert ops.held_bytes <= MOST_BYTES
    assert ops.find("", f"{12:016x}") is not None


def test_one_span_stands_for_one_op_and_the_bound_holds() -> None:
    """The latest word on a span counts, and the oldest names make room; nothing is counted twice."""
    ops = remembered()
    ones = [observed(number) for number in (1, 2)]
    for one in ones:
        ops.consume(one)
    other = observed(3)
    empty = ops.held_bytes
    for one in ones:
        ops.absorbed(other, one)
    assert ops.find(TRACE, other.span_id or "") is ops.find(TRACE, f"{2:016x}")
    one_name = ops.held_bytes - empty
    for number in range(10, 10 + 2 * MOST_OPS):
        ops.absorbed(observed(number), ones[number % 2])
    assert ops.held_bytes - empty == MOST_OPS * one_name


def test_an_op_judged_again_and_again_takes_room() -> None:
    """Each amending op has an id by which it is known; they are bounded too."""
    ops = remembered()
    ops.consume(observed(1))
    before = ops.held_bytes
    judge(ops, 1, *(Judgement("score", number, "", None) for number in range(100)))
    assert ops.held_bytes > before + 100 * len(new_id())
    for number in range(2, 12):
        ops.consume(observed(number, input_summary="y" * (MOST_BYTES // 10)))
    assert ops.held_bytes <= MOST_BYTES


def test_an_op_changes_what_it_amends_by_one_of_sixteen_names() -> None:
    """The other readers of the field read as many: what one takes for an amendment is one to all."""
    ops = remembered()
    first = observed(1)
    ops.consume(first)
    others = " ".join(f"other-{number}" for number in range(16))
    for number, amends in enumerate((f"{others} {first.op_id}", f"other\t{first.op_id}"), 2):
        ops.consume(observed(number, amends=amends))
    row = ops.find(TRACE, f"{1:016x}")
    assert row is not None
    assert (row.latest_id == first.op_id, len(row.aliases)) == (False, 2)
