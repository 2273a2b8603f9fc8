"""The cached parts of a span's encoding: the same bytes as without a cache, and bounded."""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.export.wire import KnownKeys, RecurringValues

KEYS = ("name", "ok", "number")


def test_recurring_values_are_encoded_as_others_are() -> None:
    """Whether values recur, are new, are absent or too long to be kept: their attributes are the same."""
    recurring, plain = RecurringValues(9, KEYS), KnownKeys(9, KEYS)
    for values in [("a", True, 1), ("a", False, 1), ("a", True, 1), (None, True, None), ("é" * 2000, True, 1)] * 2:
        assert recurring.attributes(values) == b"".join(plain.attributes(values))
    span = Span.FromString(recurring.attributes(("a", True, 1)))
    assert [each.key for each in span.attributes] == list(KEYS)


def test_what_is_kept_is_bounded() -> None:
    """Values that never recur are encoded all the same, and take no more and more memory."""
    recurring = RecurringValues(9, KEYS)
    for number in range(5000):
        recurring.attributes((f"{number}" * (number % 300), True, number))
    kept = recurring._kept
    assert 0 < len(kept) <= 512
    assert max(map(len, kept.values())) <= 1024
