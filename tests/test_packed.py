"""Numbers and spans, packed: what goes in comes out, and one person's records can be taken out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.packed import NUMBER_BYTES, SPAN_BYTES, add_number, add_span, numbers, spans, without

_AT = st.integers(0, 65_535)
_IDS = st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8))


@given(st.lists(st.tuples(_AT, st.floats(allow_nan=False))), st.sets(_AT, max_size=5))
def test_numbers_come_out_as_they_went_in(given_numbers: list[tuple[int, float]], gone: set[int]) -> None:
    """In their order, and without those of the ops that are taken out."""
    packed = bytearray()
    for at, number in given_numbers:
        add_number(packed, at, number)
    assert list(numbers(packed)) == given_numbers
    left = without(packed, NUMBER_BYTES, sum(1 << at for at in gone))
    assert list(numbers(left)) == [each for each in given_numbers if each[0] not in gone]


@given(st.lists(st.tuples(_AT, _IDS)), st.sets(_AT, max_size=5))
def test_spans_come_out_as_they_went_in(given_spans: list[tuple[int, tuple[bytes, bytes]]], gone: set[int]) -> None:
    """As lower-case hex, in their order, and without those of the ops that are taken out."""
    packed, refs = bytearray(), [(at, (trace.hex(), span.hex())) for at, (trace, span) in given_spans]
    for at, ref in refs:
        add_span(packed, at, *ref)
    assert list(spans(packed)) == refs
    left = without(packed, SPAN_BYTES, sum(1 << at for at in gone))
    assert list(spans(left)) == [each for each in refs if each[0] not in gone]


def test_ids_that_are_none_are_passed_over() -> None:
    """Of an old journal, or of a sender's own making: the others stay readable."""
    packed = bytearray()
    for trace_id, span_id in (("", ""), ("x" * 32, "1" * 16), ("1" * 30, "2" * 18), ("é" * 32, "2" * 16)):
        add_span(packed, 1, trace_id, span_id)
    assert not packed
