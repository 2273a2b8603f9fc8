"""Packs numbers and span ids of ops into bytes: as Python objects they took five times the memory.

Each record begins with the op's index in its sheet (0 to 65,535), little-endian. `analysis` writes and reads them;
`store` removes the records of a person who is erased.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final

from sidecar.model import SpanRef

_NUMBER: Final = Struct("<Hd")  # index of the op, number
_SPAN: Final = Struct("<H16s8s")  # index of the op, ids of its span
NUMBER_BYTES: Final = _NUMBER.size
SPAN_BYTES: Final = _SPAN.size
_IDS_BYTES: Final = 24


def add_number(packed: bytearray, at: int, number: float) -> None:
    """Append the *number* of the op at index *at*."""
    packed += _NUMBER.pack(at, number)


def numbers(packed: bytes | bytearray) -> Iterator[tuple[int, float]]:
    """Iterate over (op index, number), in order of addition."""
    return _NUMBER.iter_unpack(packed)


def add_span(packed: bytearray, at: int, trace_id: str, span_id: str) -> None:
    """Append the span of the op at index *at*; ids that are not W3C Trace Context's are skipped."""
    try:
        ids = bytes.fromhex(trace_id + span_id)
    except ValueError:
        return
    if len(trace_id) == 32 and len(ids) == _IDS_BYTES:
        packed += at.to_bytes(2, "little") + ids


def spans(packed: bytes | bytearray) -> Iterator[tuple[int, SpanRef]]:
    """Iterate over (op index, span), in order of addition."""
    for at, trace_id, span_id in _SPAN.iter_unpack(packed):
        yield at, (trace_id.hex(), span_id.hex())


def without(packed: bytes | bytearray, record_bytes: int, ops: int) -> bytes:
    """*packed* without the records of *ops*, a bit mask of op indexes."""
    records = (packed[at : at + record_bytes] for at in range(0, len(packed), record_bytes))
    return b"".join(each for each in records if not ops >> int.from_bytes(each[:2], "little") & 1)
