"""The parts of the Protocol Buffers encoding needed to assemble a span's bytes.

Building a message object of twenty attributes costs four times as much as joining bytes, most of which recur from span
to span and are cached. Source: Protocol Buffers encoding; opentelemetry/proto/common/v1/common.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

_DOUBLE: Final = struct.Struct("<d")
_INT64: Final = 2**63
_SHORT: Final = 64  # bytes of text
_MOST_COMBINATIONS: Final = 512
_MOST_TOGETHER: Final = 1024  # bytes; with the number above, this bounds what is kept to one MiB
_MOST_KEPT: Final = 128  # characters of a key; longer keys are not cached, which bounds the caches


def varint(number: int) -> bytes:
    """*number* (not negative) as a varint."""
    if number < 0x80:
        return number.to_bytes(1, "little")
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_LENGTHS: Final = tuple(varint(number) for number in range(1024))
_TAGS: Final = tuple(varint(number << 3 | 2) for number in range(32))


def field(number: int, content: bytes) -> bytes:
    """*content* as length-delimited field *number* (wire type 2)."""
    return tagged(number, len(content)) + content


def tagged(number: int, size: int) -> bytes:
    """The tag and length that precede *size* bytes as length-delimited field *number*."""
    return _TAGS[number] + (_LENGTHS[size] if size < 1024 else varint(size))


def attributes(number: int, said: Iterable[tuple[str, Any]]) -> list[bytes]:
    """Encode keys and values as attributes in field *number* of their parent; the result is to be joined.

    Values that OTLP cannot represent are left out, as the SDK does.
    """
    parts: list[bytes] = []
    for key, value in said:
        kept = len(key) <= _MOST_KEPT
        kind = value.__class__
        if kind is str:
            text = value.encode()
            parts += (_kept_head(number, key, len(text)) if kept else _head(number, key, len(text)), text)
        elif kept and (kind is bool or kind is int):
            parts.append(_kept_number(number, key, value))
        else:
            parts.append(_attribute(number, key, value))
    return parts


class KnownKeys:
    """Encodes the *keys* that every span has; the bytes before a short text value are computed once per key."""

    def __init__(self, number: int, keys: Iterable[str]) -> None:
        self._number = number
        self._keys = tuple((key, tuple(_head(number, key, size) for size in range(_SHORT))) for key in keys)

    def attributes(self, values: Iterable[Any]) -> list[bytes]:
        """Like `attributes`, with one value per key and twice as fast; None is left out."""
        parts: list[bytes] = []
        add, number = parts.append, self._number
        for (key, heads), value in zip(self._keys, values, strict=True):
            if value is None:
                continue
            kind = value.__class__
            if kind is str:
                text = value.encode()
                size = len(text)
                add(heads[size] if size < _SHORT else _kept_head(number, key, size))
                add(text)
            elif kind is bool or kind is int:
                add(_kept_number(number, key, value))
            else:
                add(_attribute(number, key, value))
        return parts


class RecurringValues:
    """Encodes the values of *keys* where a few combinations make up most spans: the bytes of each are computed once.

    A key's values must be of one type each, as equal ones of different types (1, True) would share their bytes.
    """

    def __init__(self, number: int, keys: Iterable[str]) -> None:
        self._keys = KnownKeys(number, keys)
        self._kept: dict[tuple[Any, ...], bytes] = {}

    def attributes(self, values: tuple[Any, ...]) -> bytes:
        """The attributes of *values*, one per key; None is left out."""
        known = self._kept.get(values)
        if known is None:
            known = b"".join(self._keys.attributes(values))
            if len(known) <= _MOST_TOGETHER:
                if len(self._kept) >= _MOST_COMBINATIONS:
                    self._kept.clear()  # cheaper than to track which are in use; those soon return
                self._kept[values] = known
        return known


def _head(number: int, key: str, size: int) -> bytes:
    """The bytes before a text value of *size* bytes. Cached: few keys and lengths occur."""
    inside = field(1, key.encode()) + tagged(2, len(tagged(1, size)) + size) + tagged(1, size)
    return tagged(number, len(inside) + size) + inside


def _attribute(number: int, key: str, value: Any) -> bytes:
    said = _any_value(value)
    return field(number, field(1, key.encode()) + field(2, said)) if said is not None else b""


_kept_head = lru_cache(maxsize=4096)(_head)
_kept_number = lru_cache(maxsize=2048, typed=True)(_attribute)


def _any_value(value: Any) -> bytes | None:
    match value:
        case str():
            return field(1, value.encode())
        case bool():
            return b"\x10\x01" if value else b"\x10\x00"
        case int():
            return b"\x18" + varint(value % 2**64) if -_INT64 <= value < _INT64 else None
        case float():
            return b"\x21" + _DOUBLE.pack(value)
        case list() | tuple():
            items = [item for item in map(_any_value, value) if item is not None]
            return field(5, b"".join([field(1, item) for item in items]))
    return None
