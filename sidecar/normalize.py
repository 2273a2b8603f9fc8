"""The normal form of an op: the form that op → span → OTLP → op preserves exactly.

Lone surrogates and NUL become U+FFFD; null means absent; int and float stay distinct; integers beyond int64, lists and
objects become JSON text; maps hold at most 64 entries, any further ones as JSON text under `_rest`.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import astuple

from sidecar.model import ObservedOp, Scalar
from sidecar.redaction import MASK, Redactor

MAX_ENTRIES = 64
_QUERY_CHARACTERS = 8192
REST_KEY = "_rest"
_MOST_KNOWN = 2048  # texts
_MOST_KNOWN_LENGTH = 64  # characters
_BEYOND_CUT = 1 << 14  # characters after a cut that are masked together with the text before it
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_UNWRITABLE = re.compile("[\x00\ud800-\udfff]")


def clean_text(text: str) -> str:
    """*text* with NUL and lone surrogates replaced by U+FFFD, so that UTF-8, protobuf and SQLite can hold it."""
    if "\0" not in text:
        if text.isascii():
            return text
        try:
            text.encode()  # an order of magnitude faster than searching for surrogates
        except UnicodeEncodeError:
            pass
        else:
            return text
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def scalar(value: Any) -> Scalar | None:
    """*value* as one of OTLP's scalars; None if it is absent. NaN and infinities become their names."""
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
    """*value* as compact JSON; what JSON cannot express appears as its `repr`. Never raises."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        pass
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=repr)
    except (TypeError, ValueError, RecursionError):
        return f"[{type(value).__name__} that cannot be written out]"


class Normalizer:
    """Brings ops and their maps into the normal form and masks credentials. Thread-safe.

    *known* holds recent short texts that need neither cleaning nor masking: names and places recur from op to op. Each
    is mapped to itself, so that a reader can replace an equal text by the known one, which saves memory.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self.known: dict[str, str] = {}

    def text(self, text: str) -> str:
        """*text*, cleaned and redacted."""
        return self._redactor.text(clean_text(text))

    def cut(self, text: str, most: int) -> str:
        """The first *most* characters of *text*, masked before cutting: half a credential has no recognisable shape."""
        if len(text) <= most:
            return text  # not cut: it is masked with the whole op
        return self.text(text[: most + _BEYOND_CUT])[:most]

    def query(self, query: str) -> dict[str, str]:
        """The fields of a URL's *query*, decoded, credentials masked; the last of repeated ones."""
        pairs = parse_qsl(query[:_QUERY_CHARACTERS], keep_blank_values=True)[:MAX_ENTRIES]
        return {name: MASK if self._redactor.named_in_url(name, value) else value for name, value in pairs}

    def scalars(self, fields: Mapping[str, Any], *, plain: bool = False) -> dict[str, Scalar] | None:
        """*fields* as scalars by clean key, at most `MAX_ENTRIES`; None if nothing is left.

        *plain*: their `texts_of` are known to be harmless.
        """
        kept: dict[str, Scalar] = {}
        rest: dict[str, Any] = {}
        numbers: dict[str, int] = {}
        last = MAX_ENTRIES - 1 if len(fields) > MAX_ENTRIES else MAX_ENTRIES
        plain = plain or self.harmless(texts_of(fields))
        for raw_key, raw_value in fields.items():
            kind = raw_value.__class__
            as_it_is = kind is str or kind is bool or (kind is int and INT64_MIN <= raw_value <= INT64_MAX)
            value = raw_value if plain and as_it_is else self._value(raw_key, raw_value, plain)
            if value is None:
                continue
            key = str(raw_key) if plain else self.text(str(raw_key))
            if len(kept) < last and key not in kept and (key != REST_KEY or last == MAX_ENTRIES):
                kept[key] = value
            else:
                rest[_free(key, rest, numbers)] = value
        if rest:
            if REST_KEY in kept:
                rest[_free(REST_KEY, rest, numbers)] = kept.pop(REST_KEY)
            kept[REST_KEY] = self.text(json_text(rest))
        return kept or None

    def op(self, op: ObservedOp) -> ObservedOp:
        """*op* in the normal form; the same object if it already is."""
        fields = dict(zip(op.__struct_fields__, astuple(op), strict=True))
        given = dict(fields)
        self.fields(fields)
        same = all(type(fields[name]) is type(value) and fields[name] == value for name, value in given.items())
        return op if same else ObservedOp(**fields)

    def fields(self, fields: dict[str, Any]) -> None:
        """Bring an op's *fields*, by name, into the normal form, in place."""
        texts: list[str] = []
        for name, value in fields.items():
            kind = type(value)
            if kind is str:
                texts.append(value)
            elif kind is not bool and value is not None and not (kind is int and INT64_MIN <= value <= INT64_MAX):
                fields[name] = self._other(name, value)
        self.clean(fields, texts)

    def clean(self, fields: dict[str, Any], texts: Sequence[str]) -> None:
        """Clean and redact all texts in an op's *fields*, in place; *texts* are those to check."""
        if not self.harmless(texts):
            clean: dict[str, str] = {}  # cached by text: an error is often the output_summary too
            for name, value in fields.items():
                if isinstance(value, str):
                    if value not in clean:
                        clean[value] = self.text(value)
                    fields[name] = clean[value]

    def _other(self, name: str, value: Any) -> Any:
        """Normalize a field that is neither str, bool, int64 nor absent: a map, another number, a str subclass."""
        if isinstance(value, dict):
            return self.scalars(value)
        if isinstance(value, str):
            return self.text(str(value))
        return value if INT64_MIN <= value <= INT64_MAX else _measure(name, value)

    def harmless(self, texts: Iterable[str]) -> bool:
        """Whether none of *texts* needs cleaning or masking. Checks those not known all at once."""
        known = self.known
        new = [text for text in texts if text not in known]
        if not new:
            return True
        together = "\n".join(new)
        if clean_text(together) is not together or self._redactor.suspicious(together):
            return False
        if len(known) + len(new) > _MOST_KNOWN:
            known.clear()  # those in use soon return
        for text in new[:_MOST_KNOWN]:
            if text.__class__ is str and len(text) <= _MOST_KNOWN_LENGTH:  # an enum's member equals its text
                known[text] = text
        return True

    def _value(self, key: Any, value: Any, plain: bool) -> Scalar | None:
        if value is None:
            return None
        if not plain and self._redactor.named(str(key), value):  # `harmless` has checked the key, too
            return MASK
        known = scalar(value)
        nothing_to_mask = plain and isinstance(value, str)
        return self._redactor.text(known) if isinstance(known, str) and not nothing_to_mask else known


def texts_of(fields: Mapping[str, Any]) -> list[str]:
    """All texts in *fields*, keys included, that may hold a credential or name one."""
    return [*map(str, fields), *(value for value in fields.values() if isinstance(value, str))]


def _free(key: str, taken: Mapping[str, Any], numbers: dict[str, int]) -> str:
    """*key*, or the first of `key (2)`, `key (3)` … that is not *taken*: cleaning may make two keys equal.

    *numbers* remembers the last number per key, because a sender may send a hundred thousand colliding keys.
    """
    free, number = key, numbers.get(key, 1)
    while free in taken:
        number += 1
        free = f"{key} ({number})"
    numbers[key] = number
    return free


def _measure(name: str, value: float) -> float | None:
    """A number beyond int64 as the nearest float; NaN becomes absent (0 for a duration)."""
    if name == "v" or value != value:  # noqa: PLR0124 - NaN alone differs from itself
        return 0.0 if name == "duration_ms" else None
    return float(max(-sys.float_info.max, min(value, sys.float_info.max)))


def _big(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # Python refuses to convert more than 4300 digits
        return hex(value)
