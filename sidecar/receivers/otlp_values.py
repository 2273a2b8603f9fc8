"""Counts the values in a large piece of an OTLP request without parsing it: two bytes can become sixty in memory.

`otlp_wire` bounds the number of spans that are parsed; this bounds what one span, or the part shared by spans, holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidecar.errors import MalformedError
from sidecar.receivers.otlp_wire import LENGTH_DELIMITED, Field, ItemBound, fields_of

MOST_VALUES: Final = 2**19
"""Bound per piece: 30 MiB in memory. A hundred embeddings of a thousand numbers have less than half of it."""
_SMALL_BYTES: Final = 2 * MOST_VALUES  # a smaller piece cannot have more
_BREATH_VALUES: Final = 1000
_MOST_DEPTH: Final = 100  # the parser goes no deeper


def check_values(piece: bytes) -> Iterator[None]:
    """Walk over *piece*, yielding now and then so that other tasks can run. Raises TooLargeError.

    If the framing is broken, the walk ends: the parser will report it.
    """
    if len(piece) <= _SMALL_BYTES:
        return
    bound = ItemBound(MOST_VALUES, "values in one span, or shared by spans")
    levels: list[tuple[Iterator[Field], Any]] = [
        (fields_of(piece, 0, len(piece), bound), ExportTraceServiceRequest.DESCRIPTOR.fields_by_number)
    ]
    walked = 0
    try:
        while levels:
            fields, known = levels[-1]
            field = next(fields, None)
            if field is None:
                levels.pop()
                continue
            walked += 1
            if not walked % _BREATH_VALUES:
                yield
            inner = known.get(field.number)
            is_message = inner is not None and inner.message_type is not None
            if is_message and piece[field.start] & 7 == LENGTH_DELIMITED and len(levels) < _MOST_DEPTH:
                within = fields_of(piece, field.value, field.end, bound)
                levels.append((within, inner.message_type.fields_by_number))
    except MalformedError:
        return
