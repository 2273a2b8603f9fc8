"""Converts one posted event, decoded JSON, to an `ObservedOp`, with the field names and defaults that callers expect.

Errors name field, value and what is expected; unknown fields are kept in `extra`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from sidecar.errors import InvalidInputError, MalformedError
from sidecar.ids import new_id
from sidecar.model import MOST_AMENDED, MOST_DURATION_MS, SCHEMA_VERSION, ObservedOp, amends_too_many
from sidecar.normalize import INT64_MAX, INT64_MIN, Normalizer
from sidecar.receivers.event_summary import call_summary, is_plain_call, scenario_summary

_SHOWN = 80
_WORDS = {"true": True, "false": False, "1": True, "0": False}
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_DEFAULTS: dict[str, Any] = {
    "endpoint": "scenario:fill",
    "success": False,
    "duration_ms": 0,
    "source": "scenario",
    "rescue_attempted": False,
    "rescue_succeeded": False,
}
_TIMESTAMP = Annotated[datetime, msgspec.Meta(tz=True)]


def event_op(raw: object, now: str, normalizer: Normalizer) -> ObservedOp:
    """The op, in the normal form, of the event *raw*; *now* (RFC 3339) is the default timestamp.

    Raises MalformedError if *raw* is not an object, InvalidInputError if a field is wrong.
    """
    if not isinstance(raw, dict):
        raise MalformedError(
            "an event must be a JSON object", f"this is {_named(raw)}", 'Send an object such as {"success": true}'
        )
    fields, texts = _read(raw, now, normalizer.known)
    for name in ("features", "extra"):
        if name in fields:
            fields[name] = normalizer.scalars(fields[name])
    is_call = is_plain_call(fields)
    if "input_summary" not in fields:
        if is_call:
            fields["input_summary"] = call_summary(fields)
            texts.append(fields["input_summary"])  # checked as a whole, as adjacent features may read as a credential
        else:
            fields["input_summary"] = scenario_summary(fields)  # the words between its texts cannot form a credential
    if "output_summary" not in fields:
        done = "ok" if is_call else "filled"
        fields["output_summary"] = done if fields["success"] else fields.get("error", "failed")
    normalizer.clean(fields, texts)
    fields["v"], fields["op_id"] = SCHEMA_VERSION, new_id()
    return msgspec.convert(fields, ObservedOp)  # twice as fast as a call with keywords


def _read(raw: Mapping[str, Any], now: str, known: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The fields in *raw*, over the defaults, and the texts to check: those not *known*. Raises InvalidInputError."""
    fields: dict[str, Any] = {**_DEFAULTS, "timestamp": now}
    extra: dict[str, Any] = {}
    texts: list[str] = []
    for key, value in raw.items():
        if value is None:
            continue
        if key in _TEXTS:
            if not isinstance(value, str):
                raise _wrong(key, value, "text")
            same = known.get(value)
            if same is None:
                texts.append(value)
            fields[key] = same or value
        elif (read := _READERS.get(key)) is not None:
            fields[key] = read(key, value)
        else:
            extra[key] = value
    if extra:
        fields["extra"] = {**fields.get("extra", {}), **extra}
    if "amends" in fields and amends_too_many(fields["amends"]):
        raise _wrong("amends", fields["amends"], f"at most {MOST_AMENDED} ids, with a space between")
    return fields, texts


def _boolean(field: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = _WORDS.get(value) if isinstance(value, str) else None
    if known is None and type(value) is int and value in (0, 1):
        known = bool(value)
    if known is None:
        raise _wrong(field, value, 'true or false (also 0, 1, "true", "false")')
    return known


def _number(field: str, value: Any) -> int | float:
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:  # the usual case
        return value
    number = value
    if isinstance(value, str) and _NUMBER.fullmatch(value) and len(value) < 400:
        number = int(value) if value.lstrip("-").isdigit() else float(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise _wrong(field, value, "a number, or one as a decimal string")
    if not _finite(number):
        raise _wrong(field, value, "a finite number")
    # Beyond 64 bits: the nearest value that OTLP can hold.
    return float(number) if isinstance(number, int) and not INT64_MIN <= number <= INT64_MAX else number


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _duration(field: str, value: Any) -> int | float:
    number = _number(field, value)
    if not 0 <= number <= MOST_DURATION_MS:
        raise _wrong(field, value, "milliseconds, not negative and not over thirty years")
    return number


def utc_ms(field: str, value: Any) -> str:
    """*value*, an RFC 3339 time, in UTC with milliseconds. Raises InvalidInputError, naming *field*."""
    expected = "an RFC 3339 time with an offset, such as 2026-01-31T08:15:00.000Z"
    if not isinstance(value, str):
        raise _wrong(field, value, expected)
    try:
        moment = msgspec.convert(value, _TIMESTAMP).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError, UnicodeEncodeError) as exc:
        raise _wrong(field, value, expected) from exc
    return moment.isoformat(timespec="milliseconds")[:-6] + "Z"


def _hex(length: int) -> Callable[[str, Any], str]:
    pattern = re.compile(rf"(?!0+$)[0-9a-fA-F]{{{length}}}")

    def read(field: str, value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise _wrong(field, value, f"{length} hex digits, not all zero")
        return value.lower()

    return read


def _map(field: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(field, value, "an object")
    return value


def _wrong(field: str, value: Any, expected: str) -> InvalidInputError:
    return InvalidInputError(
        f"{field} is {_named(value)}", f"expected {expected}", "Correct the field, or leave it out"
    )


def _named(value: Any) -> str:
    """*value* as shown in an error: short, and never the start of a long, possibly secret text."""
    if isinstance(value, dict | list):
        return f"an {'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**_SHOWN else "a very large integer"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}… ({len(text)} characters)"


_trace_id, _span_id = _hex(32), _hex(16)
_TEXTS = frozenset(
    {
        "endpoint",
        "input_summary",
        "output_summary",
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
    }
)
_READERS: dict[str, Callable[[str, Any], Any]] = {
    "timestamp": utc_ms,
    "success": _boolean,
    "rescue_attempted": _boolean,
    "rescue_succeeded": _boolean,
    "duration_ms": _duration,
    "count": _number,
    "applied_at_turn": _number,
    "trace_id": _trace_id,
    "parent_span_id": _span_id,
    "features": _map,
    "extra": _map,
}
_TEXT_SCHEMA: dict[str, Any] = {"type": "string"}
_BOOLEAN_SCHEMA: dict[str, Any] = {"enum": [True, False, 0, 1, "true", "false", "0", "1"]}
_NUMBER_SCHEMA: dict[str, Any] = {"type": "number", "minimum": -sys.float_info.max, "maximum": sys.float_info.max}
_SCHEMAS: dict[Callable[[str, Any], Any], dict[str, Any]] = {
    _boolean: _BOOLEAN_SCHEMA,
    _number: _NUMBER_SCHEMA,
    _duration: {"type": "number", "minimum": 0, "maximum": MOST_DURATION_MS},
    utc_ms: {"type": "string", "format": "date-time"},
    _map: {"type": "object"},
    _trace_id: {"type": "string", "pattern": "^[0-9a-f]{31}[1-9a-f]$"},
    _span_id: {"type": "string", "pattern": "^[0-9a-f]{15}[1-9a-f]$"},
}
FIELD_SCHEMAS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(sorted(_TEXTS), _TEXT_SCHEMA),
    **{name: _SCHEMAS[read] for name, read in _READERS.items()},
    "amends": {"type": "string", "pattern": rf"^\s*(\S+\s+){{0,{MOST_AMENDED - 1}}}\S*\s*$"},
}
"""JSON schema of each known field, for the API description."""
