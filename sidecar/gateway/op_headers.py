"""`X-Observer-Op-<Field>` request headers, in which an agent sets fields of the op. They are not forwarded."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

_TEXTS = frozenset(
    [
        *("staffer_id", "sig_hash", "event_kind", "role", "city", "state", "task_class", "correction", "task"),
        *("exposure_id", "amends", "input_summary"),
    ]
)
_NUMBERS = frozenset(["count", "applied_at_turn"])
_FLAGS = frozenset(["rescue_attempted", "rescue_succeeded"])
_ALIASES = {"staffer": "staffer_id", "exposure": "exposure_id", "sig": "sig_hash"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_MOST_TEXT = 1024
_MOST_EXTRA = 32


def op_fields(headers: Iterable[tuple[str, str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split *headers*, pairs of lower-case name without the prefix and value, into the op's (fields, extra).

    Unknown names and invalid values go to extra. Of a repeated header the last counts.
    """
    fields: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    for given, text in headers:
        name = given.replace("-", "_")
        name = _ALIASES.get(name, name)
        value = _value(name, text[:_MOST_TEXT])
        if value is not None:
            fields[name] = value
        elif name and len(extra) < _MOST_EXTRA:
            extra[name] = text[:_MOST_TEXT]
    return fields, extra


def _value(name: str, text: str) -> str | float | bool | None:
    if name in _TEXTS:
        return text
    if name in _FLAGS:
        return _TRUTH.get(text.lower())
    return _number(text) if name in _NUMBERS else None


def _number(text: str) -> float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
