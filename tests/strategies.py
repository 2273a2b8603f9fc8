"""Generators of ops as senders send them: huge integers, lone surrogates, NULs, empty keys, 200 extra fields."""

from __future__ import annotations

import sys
from typing import Any

from hypothesis import strategies as st

from sidecar.model import SCHEMA_VERSION, ObservedOp

_ODD_TEXTS = [
    "",
    "\x00",
    "a\x00b",
    "\ud800",
    "x\udfffy",
    "\U0001f600 é ×",
    "constructor",
    "__proto__",
    "a\nb",
    '{"a":1}',
]
_ODD_FLOATS = [0.0, -0.0, 1e308, -1e308, 5e-324, 2.0**53, 0.1, sys.float_info.max]
_ODD_INTS = [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, 10**30]

texts = st.one_of(st.sampled_from(_ODD_TEXTS), st.text(st.characters(exclude_categories=[]), max_size=12))
"""Any text that Python can hold, lone surrogates included."""

numbers: st.SearchStrategy[int | float] = st.one_of(
    st.sampled_from([*_ODD_INTS, *_ODD_FLOATS]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
)
"""Finite numbers of any size; ints and floats."""

durations = numbers.map(abs)
"""Milliseconds; the doors let no negative ones through."""

scalars: st.SearchStrategy[Any] = st.one_of(st.booleans(), texts, numbers, st.none())
"""Values of a JSON object's field, without nesting."""

values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(scalars, st.sampled_from([float("nan"), float("inf"), float("-inf")])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
"""Any JSON value, plus the floats that JSON cannot represent."""

crowded = st.integers(60, 200).map(lambda n: {f"field_{i}": i if i % 3 else f"value {i}" for i in range(n)})
"""More fields than an op keeps by name."""

maps: st.SearchStrategy[dict[str, Any]] = st.one_of(st.dictionaries(texts, values, max_size=6), crowded)
"""Features and extras as they are sent."""

timestamps = st.one_of(
    st.sampled_from(["0001-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"]),
    st.datetimes().map(lambda at: at.isoformat(timespec="milliseconds") + "Z"),
)
"""RFC 3339 in UTC with milliseconds, as the doors write it, from year 1 to 9999."""

_OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        [
            "error",
            "source",
            "staffer_id",
            "sig_hash",
            "event_kind",
            "role",
            "city",
            "state",
            "task_class",
            "correction",
            "error_type",
            "task",
            "exposure_id",
            "event_id",
            "amends",
        ],
        texts,
    ),
    "count": numbers,
    "applied_at_turn": numbers,
    "rescue_attempted": st.booleans(),
    "rescue_succeeded": st.booleans(),
    "features": maps,
    "extra": maps,
}


def _op_of(fields: dict[str, Any]) -> ObservedOp:
    return ObservedOp(**fields)


_ops = st.fixed_dictionaries(
    {
        "timestamp": timestamps,
        "endpoint": texts,
        "input_summary": texts,
        "success": st.booleans(),
        "duration_ms": durations,
        "output_summary": texts,
        "v": st.just(SCHEMA_VERSION),
        "op_id": st.uuids().map(str),
    },
    optional=_OPTIONAL,
).map(_op_of)


def ops() -> st.SearchStrategy[ObservedOp]:
    """Ops not yet in the normal form, without trace ids; `Normalizer.op` takes each of them."""
    return _ops
