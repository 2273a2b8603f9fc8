"""Turns one row of the overseer's corrections (JSON text) into an op in the normal form.

A wrong value does not cost the correction: it is converted to text, or kept in `extra` as it came.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from sidecar.clock import rfc3339_ms
from sidecar.errors import MalformedError
from sidecar.ids import new_id
from sidecar.model import SCHEMA_VERSION, ObservedOp
from sidecar.normalize import INT64_MAX, Normalizer, json_text
from sidecar.protocols import Clock

SOURCE = "overseer_correction"
DEFAULT_MODEL = "gpt-oss:120b"
_PREVIEW = 200  # characters of the correction in output_summary
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?(\d{1,40}|\d{0,40}\.\d{1,40})([eE][+-]?\d{1,4})?", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FIX = "Write one JSON object a line"


class CorrectionReader:
    """Reads rows. Thread-safe."""

    def __init__(self, normalizer: Normalizer, clock: Clock) -> None:
        self._normalizer = normalizer
        self._clock = clock

    def op(self, row: bytes, event_id: str) -> ObservedOp:
        """The op for *row*. Raises MalformedError if it is not a JSON object."""
        fields = _decoded(row)
        if not isinstance(fields, dict):
            raise MalformedError("the row is not an object", f"it is {_kind(fields)}", _FIX)
        timestamp = self._timestamp(fields)
        model, reason = _text(fields, "model"), _text(fields, "reason")
        task_class, correction = _text(fields, "task_class"), _text(fields, "correction") or ""
        duration_ms, turn = _latency_ms(fields), _number(fields, "applied_at_turn")
        sig_hash = _text(fields, "sig_hash")
        op = ObservedOp(
            timestamp=timestamp,
            endpoint=f"overseer:{DEFAULT_MODEL if model is None else model}",
            input_summary=f"{'?' if task_class is None else task_class}: {'escalation' if reason is None else reason}",
            success=True,
            duration_ms=duration_ms,
            output_summary=self._normalizer.text(correction)[:_PREVIEW],  # masked before cutting
            source=SOURCE,
            sig_hash=sig_hash,
            task_class=task_class,
            correction=correction,
            applied_at_turn=turn,
            v=SCHEMA_VERSION,
            op_id=new_id(),
            event_id=event_id,
            extra=fields or None,  # the fields not used above
        )
        return self._normalizer.op(op)

    def _timestamp(self, fields: dict[str, Any]) -> str:
        given = fields.get("created_at")
        stamp = _utc_ms(given) if isinstance(given, str) else None
        if stamp is None:
            return rfc3339_ms(self._clock.time_ns())
        del fields["created_at"]
        return stamp


def _decoded(row: bytes) -> Any:
    try:
        return msgspec.json.decode(row)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass  # lone surrogates or NaN, which the standard library accepts
    try:
        return json.loads(row.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as exc:
        why = str(exc) if isinstance(exc, json.JSONDecodeError) else type(exc).__name__
        raise MalformedError("the row is not JSON", why, _FIX) from exc


def _kind(value: Any) -> str:
    names = {bool: "a boolean", str: "a string", list: "an array", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def _text(fields: dict[str, Any], name: str) -> str | None:
    """Remove *name* and return it as text; other values become JSON. None if it is absent or null."""
    value = fields.pop(name, None)
    return value if isinstance(value, str | None) else json_text(value)


def _number(fields: dict[str, Any], name: str) -> int | float:
    """Remove *name* and return it as a number; anything else stays, and counts as 0."""
    value = fields.get(name)
    number = _plain_number(value)
    if number is None:
        return 0
    del fields[name]
    return number


def _latency_ms(fields: dict[str, Any]) -> int | float:
    """Remove and return `usage.latency_ms`; the rest of `usage` stays."""
    usage = fields.get("usage")
    if not isinstance(usage, dict):
        return 0
    latency_ms = _number(usage, "latency_ms")
    if not usage:
        del fields["usage"]
    return latency_ms


def _plain_number(value: Any) -> int | float | None:
    """*value*, also from decimal text, as a finite, non-negative number that OTLP can hold; else None."""
    if isinstance(value, str) and _NUMBER.fullmatch(text := value.strip()):
        value = float(text) if set(text) & set(".eE") else int(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if 0 <= value <= INT64_MAX else None
    return value if math.isfinite(value) and value >= 0 else None


def _utc_ms(text: str) -> str | None:
    """RFC 3339 *text* in UTC with milliseconds; None if it is malformed."""
    if not _RFC3339.fullmatch(text.strip()):
        return None
    try:
        moment = datetime.fromisoformat(text.strip().upper())
        return rfc3339_ms((moment - _EPOCH) // timedelta(milliseconds=1) * 1_000_000)
    except (ValueError, OverflowError):
        return None
