"""The few pieces of the Protocol Buffers encoding that a span's bytes are put together from.

Building a message object of twenty attributes costs four times as much as joining the bytes, most of which are those
of the span before. Source: Protocol Buffers encoding; opentelemetry/proto/common/v1/common.proto.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final

_DOUBLE: Final = struct.Struct("<d")
_INT64: Final = 2**63
_MOST_KEPT: Final = 32  # characters: names and places repeat, ids and sentences do not


def varint(number: int) -> bytes:
    """*number*, not negative, in groups of seven bits."""
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
    size = len(content)
    return _TAGS[number] + (_LENGTHS[size] if size < 1024 else varint(size)) + content


def attribute(number: int, key: str, value: Any) -> bytes:
    """An attribute as field *number* of its parent; b"" if OTLP cannot say the value, as the SDK leaves it out."""
    kind = type(value)
    if kind is bool or kind is int or (kind is str and len(value) <= _MOST_KEPT):
        return _kept(number, key, value)
    return _attribute(number, key, value)


def _attribute(number: int, key: str, value: Any) -> bytes:
    said = field(1, value.encode()) if type(value) is str else _any_value(value)
    return field(number, _key(key) + field(2, said)) if said is not None else b""


@lru_cache(maxsize=512)
def _key(key: str) -> bytes:
    return field(1, key.encode())


_kept = lru_cache(maxsize=2048, typed=True)(_attribute)


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
