"""The ring keeps the newest ops within its bounds, and its counts cover what is in it."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from sidecar.store.ring import OpRing
from tests.fakes import an_op
from tests.strategies import ops


@settings(max_examples=50, deadline=None)
@given(st.lists(ops().map(Normalizer(Redactor()).op), max_size=30), st.integers(1, 8))
def test_ring_keeps_the_newest_ops_in_order(pushed: list[ObservedOp], capacity: int) -> None:
    """However many ops arrive, the ring holds the last *capacity* of them, oldest first, and counts just those."""
    ring = OpRing(capacity, 10**9)
    for op in pushed:
        ring.consume(op)
    kept = pushed[-capacity:]
    assert ring.ops() == kept
    assert len(ring) == len(kept)
    assert ring.successes == sum(op.success for op in kept)
    assert ring.failures == len(kept) - ring.successes
    assert ring.by_source == Counter(op.source or "mcp" for op in kept)
    assert (ring.bytes > 0) == bool(kept)


def test_ring_stays_within_its_bytes() -> None:
    """Large ops push out more than one each; a single one larger than the bound is still seen."""
    ring = OpRing(100, 100_000)
    for _ in range(50):
        ring.consume(an_op(input_summary="x" * 10_000))
        assert ring.bytes <= 100_000
    assert 5 <= len(ring) <= 9
    ring.consume(an_op(error="y" * 200_000, success=False))
    assert (len(ring), ring.failures) == (1, 1)
    ring.consume(an_op())
    assert (len(ring), ring.failures) == (1, 0)


def test_every_text_of_an_op_counts() -> None:
    """No field is a way round the bound on memory, and wide characters count as wide as they are."""
    texts = [name for name in ObservedOp.__struct_fields__ if name not in ("timestamp", "success", "duration_ms")]
    measured = {"count", "applied_at_turn", "v", "rescue_attempted", "rescue_succeeded", "features", "extra"}
    long = "\U0001f600" * 10_000
    for name in texts:
        if name not in measured:
            ring = OpRing(10, 10**9)
            ring.consume(an_op(**{name: long}))
            assert ring.bytes > 40_000, name
    for fields in ({"k": long}, {long: 1}):
        for name in ("features", "extra"):
            ring = OpRing(10, 10**9)
            ring.consume(an_op(**{name: fields}))
            assert ring.bytes > 40_000, name


def test_ops_is_a_copy() -> None:
    """Who looks at the ops is not disturbed by the next one."""
    ring = OpRing(2, 10**9)
    ring.consume(an_op())
    seen = ring.ops()
    ring.consume(an_op())
    assert len(seen) == 1


def test_an_amended_op_stays_and_counts_no_more() -> None:
    """It is shown to who asks for it, with what took its place; the counts are those of the rest."""
    ring = OpRing(3, 10**9)
    ring.consume(an_op(op_id="a", success=False))
    ring.consume(an_op(op_id="b", source="scenario"))
    ring.amended("a", "b")
    ring.amended("a", "c")  # once
    ring.amended("gone", "b")
    assert [op.op_id for op in ring.ops()] == ["b"]
    assert (len(ring), ring.successes, ring.failures, ring.by_source, ring.amended_ops) == (1, 1, 0, {"scenario": 1}, 1)
    assert [(op.op_id, by) for op, by in ring.with_amended()] == [("b", None), ("a", "b")]
    assert ring.failures_like(None, None) == []
    for name in "cd":
        ring.consume(an_op(op_id=name))
    assert (len(ring), ring.amended_ops, ring.by_source) == (3, 0, {"scenario": 1, "mcp": 2})


def test_refilled_from_the_journal_it_is_as_it_was() -> None:
    """Amended ops are known as such, and lines that are there twice are one op."""
    ring = OpRing(10, 10**9)
    for op_id, later in (("a", "b"), ("b", None), ("a", "b"), ("c", None)):
        ring.refill(an_op(op_id=op_id), later)
    assert [op.op_id for op in ring.ops()] == ["b", "c"]
    assert ring.amended_ops == 1
