"""Merges the ops of several witnesses of one operation: the winner's values, filled up from the others.

Ranks come from `conventions_table.WITNESSES`; `same_operation` decides which ops belong together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from sidecar.model import ObservedOp, Scalar
from sidecar.normalize import MAX_ENTRIES
from sidecar.spans.conventions_table import WITNESSES, Kind

_IDENTITY = ("timestamp", "v", "op_id", "trace_id", "span_id", "parent_span_id", "event_id")
_OUTCOME = ("success", "error", "error_type", "output_summary")
_MESSAGE = ("error", "output_summary")  # of a failure: from the first that says more than a status
_MAPS = ("features", "extra")
_SELF = ("endpoint", "input_summary", "duration_ms", "source", "amends")
_FILLED = tuple(name for name in ObservedOp.__struct_fields__ if name not in {*_IDENTITY, *_OUTCOME, *_MAPS, *_SELF})


def merged(witnesses: Iterable[tuple[Kind, ObservedOp]], identity: ObservedOp) -> ObservedOp:
    """The merged op of *witnesses*, with the ids of *identity*; within a kind the first wins. Source: `WITNESSES`."""
    ranked = [op for _, op in sorted(witnesses, key=_rank)]
    winner = ranked[0]
    fields: dict[str, Any] = {name: getattr(winner, name) for name in _SELF}
    fields.update({name: getattr(identity, name) for name in _IDENTITY})
    fields["timestamp"] = winner.timestamp
    failures = [op for op in ranked if not op.success]
    failed = failures[0] if failures else winner
    fields.update({name: getattr(failed, name) for name in _OUTCOME})
    told = next((op for op in failures if op.error and op.error != f"HTTP {op.error_type}"), failed)
    fields.update({name: getattr(told, name) for name in _MESSAGE})
    for name in _FILLED:
        values = (getattr(op, name) for op in ranked)
        fields[name] = next(
            (value for value in values if value is not None and value is not False), getattr(winner, name)
        )
    for name in _MAPS:
        fields[name] = _united(getattr(op, name) for op in ranked)
    return ObservedOp(**fields)


def _united(maps: Iterable[dict[str, Scalar] | None]) -> dict[str, Scalar] | None:
    """All entries, the first map winning; at most as many as the normal form allows."""
    united: dict[str, Scalar] = {}
    for each in maps:
        for key, value in (each or {}).items():
            if key not in united and len(united) < MAX_ENTRIES:
                united[key] = value
    return united or None


def comparable(op: ObservedOp) -> ObservedOp:
    """*op* without what is specific to its witness, for comparison. A difference in `extra` alone is not news."""
    return msgspec.structs.replace(
        op, op_id=None, span_id=None, parent_span_id=None, event_id=None, amends=None, extra=None, v=None
    )


def _rank(witness: tuple[Kind, ObservedOp]) -> int:
    return WITNESSES[witness[0]]
