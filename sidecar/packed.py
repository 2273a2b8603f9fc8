"""Numbers and spans of ops, packed into bytes: as objects of their own they took five times the memory.

Each record begins with the op's place in its sheet (0 to 65,535), little-endian. Written and read by `analysis`;
`store` removes the records of a person who is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from sidecar.model import SpanRef

_NUMBER: Final = Struct("<Hd")  # the op, and the number
_SPAN: Final = Struct("<H16s8s")  # the op, and the ids of its span
NUMBER_BYTES: Final = _NUMBER.size
SPAN_BYTES: Final = _SPAN.size
_IDS_BYTES: Final = 24


def add_number(packed: bytearray, at: int, number: float) -> None:
    """Add the *number* of the op *at*."""
    packed += _NUMBER.pack(at, number)


def numbers(packed: bytes | bytearray) -> Iterator[tuple[int, float]]:
    """Each op and its number, in the order they were added."""
    return _NUMBER.iter_unpack(packed)


def add_span(packed: bytearray, at: int, trace_id: str, span_id: str) -> None:
    """Add the span of the op *at*; ids that are not those of W3C Trace Context are passed over."""
    try:
        ids = bytes.fromhex(trace_id + span_id)
    except ValueError:
        return
    if len(trace_id) == 32 and len(ids) == _IDS_BYTES:
        packed += at.to_bytes(2, "little") + ids


def spans(packed: bytes | bytearray) -> Iterator[tuple[int, SpanRef]]:
    """Each op and its span, in the order they were added."""
    for at, trace_id, span_id in _SPAN.iter_unpack(packed):
        yield at, (trace_id.hex(), span_id.hex())


def without(packed: bytes | bytearray, record_bytes: int, ops: int) -> bytes:
    """*packed* without the records of the *ops*, a bit each."""
    records = (packed[at : at + record_bytes] for at in range(0, len(packed), record_bytes))
    return b"".join(each for each in records if not ops >> int.from_bytes(each[:2], "little") & 1)
