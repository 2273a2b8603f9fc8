"""Numbers and spans of a sheet's ops, packed into bytes: as objects of their own they took five times the memory."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from sidecar.model import SpanRef

_NUMBER: Final = Struct("<Hd")  # which op of the sheet, and the number
_SPAN: Final = Struct("<H16s8s")  # which op, and the ids of its span
SPAN_BYTES: Final = _SPAN.size
_IDS_BYTES: Final = 24


def add_number(packed: bytearray, at: int, number: float) -> None:
    """Add the *number* of the op *at* (0 to 65,535)."""
    packed += _NUMBER.pack(at, number)


def numbers(packed: bytearray) -> Iterator[tuple[int, float]]:
    """Each op and its number, in the order they were added."""
    return _NUMBER.iter_unpack(packed)


def count_numbers(packed: bytearray) -> int:
    """How many there are."""
    return len(packed) // _NUMBER.size


def add_span(packed: bytearray, at: int, trace_id: str, span_id: str) -> None:
    """Add the span of the op *at*; ids that are not those of W3C Trace Context are passed over."""
    try:
        ids = bytes.fromhex(trace_id + span_id)
    except ValueError:
        return
    if len(trace_id) == 32 and len(ids) == _IDS_BYTES:
        packed += at.to_bytes(2, "little") + ids


def spans(packed: bytearray) -> Iterator[tuple[int, SpanRef]]:
    """Each op and its span, in the order they were added."""
    for at, trace_id, span_id in _SPAN.iter_unpack(packed):
        yield at, (trace_id.hex(), span_id.hex())
