"""The normal form of an op: what op → span → OTLP → op keeps exactly.

Lone surrogates and NUL become U+FFFD; null means absent; int and float stay what they are; integers beyond int64,
lists and objects are kept as JSON text; maps hold at most 64 entries, the rest of them as JSON text under `_rest`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.model import ObservedOp, Scalar
from sidecar.redaction import MASK, Redactor

MAX_ENTRIES = 64
REST_KEY = "_rest"
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")
_MAPS = ("features", "extra")


def clean_text(text: str) -> str:
    """*text* with NUL and lone surrogates as U+FFFD, which UTF-8, protobuf and SQLite can all hold."""
    if text.isascii() and "\0" not in text:
        return text
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def scalar(value: Any) -> Scalar | None:
    """*value* as one of OTLP's scalars, or None if it is absent. NaN and infinities are kept as their names."""
    if isinstance(value, bool | None):
        return value
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int):
        return int(value) if INT64_MIN <= value <= INT64_MAX else _big(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    return clean_text(json_text(value))


def json_text(value: Any) -> str:
    """*value* as compact JSON; what JSON cannot say is said by its `repr`. Never raises."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError, msgspec.MsgspecError):
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=repr)
    except (TypeError, ValueError, RecursionError):
        return object.__repr__(value)


class Normalizer:
    """Brings ops and their maps into the normal form, credentials masked."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def text(self, text: str) -> str:
        """One text, cleaned and redacted."""
        return self._redactor.text(clean_text(text))

    def scalars(self, fields: Mapping[str, Any]) -> dict[str, Scalar] | None:
        """*fields* as scalars by clean key, at most `MAX_ENTRIES`; None if nothing is left."""
        kept: dict[str, Scalar] = {}
        rest: dict[str, Any] = {}
        last = MAX_ENTRIES - 1 if len(fields) > MAX_ENTRIES else MAX_ENTRIES
        for raw_key, raw_value in fields.items():
            value = self._value(raw_key, raw_value)
            if value is None:
                continue
            key = clean_text(str(raw_key))
            if len(kept) < last and key not in kept:
                kept[key] = value
            else:
                rest[key] = value
        if rest:
            kept[REST_KEY] = json_text(rest)
        return kept or None

    def op(self, op: ObservedOp) -> ObservedOp:
        """*op* in the normal form; the same object where it already is."""
        changes: dict[str, Any] = {}
        for name, value in _present(op):
            if isinstance(value, str):
                cleaned: Any = self.text(value)
            elif name in _MAPS:
                cleaned = self.scalars(value)
            else:
                continue
            if cleaned != value:
                changes[name] = cleaned
        return msgspec.structs.replace(op, **changes) if changes else op

    def _value(self, key: Any, value: Any) -> Scalar | None:
        if value is None:
            return None
        if self._redactor.named(str(key)):
            return MASK
        known = scalar(value)
        return self._redactor.text(known) if isinstance(known, str) else known


def _present(op: ObservedOp) -> list[tuple[str, Any]]:
    return [(name, value) for name in op.__struct_fields__ if (value := getattr(op, name)) is not None]


def _big(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to write out more than 4300 digits
        return hex(value)
