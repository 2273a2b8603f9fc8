"""OTLP trace requests as bytes: checked, cut into pieces that take a turn each, and parsed.

A piece is itself a whole `ExportTraceServiceRequest`, so every field, known or not, is in one of them as it came. What
is read at once is bounded: two bytes of a request can be a message of a hundred bytes in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from sidecar.errors import MalformedError, TooLargeError

MAX_REQUEST_BYTES = 20 * 2**20
MAX_ITEMS = 250_000  # spans, scopes and resources of one request
PIECE_BYTES = 48 * 1024  # some hundred spans: a millisecond or two to read
_BREATH_ITEMS = 1000  # a millisecond
_SMALL_HEAD = 4096
LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}  # wire type → bytes
CHILDREN = 2  # `scope_spans` of a resource's spans, `spans` of a scope's
RESOURCE_SPANS = 1
_MOST_VARINT = 10
_NOT_OTLP = "Send an OTLP ExportTraceServiceRequest"


class Rejected:
    """The spans of a request that are refused, and why the first of them is. *unreadable* ones had no ids to check."""

    def __init__(self) -> None:
        self.spans = 0
        self.unreadable = 0
        self.why = ""

    def add(self, why: str) -> None:
        """One more."""
        self.spans += 1
        self.why = self.why or why


class Piece(NamedTuple):
    """Some spans of a request with their resource and scope, without rejected ones: as bytes, and parsed."""

    data: bytes
    resource_spans: list[ResourceSpans]
    spans: int


class Field(NamedTuple):
    """Where a field stands."""

    number: int
    start: int  # of its tag
    value: int  # of its content, where it is length-delimited
    end: int


def read_piece(data: bytes, rejected: Rejected) -> Piece:
    """One piece parsed; spans that cannot be passed on are left out and counted in *rejected*."""
    message = _parsed(data)
    return _good_spans_of(data, rejected) if message is None else _checked(data, message, rejected)


def cut(request: bytes, piece_bytes: int = PIECE_BYTES, head_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """*request* in order, in requests of about *piece_bytes*; larger where a span is, or what all share *head_bytes*.

    Empty pieces come now and then, so that whoever iterates can let other tasks run. Raises MalformedError where the
    request's frame is broken, TooLargeError if it holds too many items.
    """
    if len(request) <= piece_bytes:
        yield request
        return
    bounds = _Bounds(piece_bytes, head_bytes)
    start = end = 0  # of small fields that go together
    for field in fields_of(request, 0, len(request), bounds):
        if field.end - field.start > piece_bytes and field.number == RESOURCE_SPANS:
            if end > start:
                yield request[start:end]
            yield from _cut_resource(request, field, bounds)
            start = end = field.end
            continue
        if field.end - start > piece_bytes and end > start:
            yield request[start:end]
            start = field.start
        end = field.end
        if bounds.breathe():
            yield b""
    if end > start:
        yield request[start:end]


def _cut_resource(request: bytes, whole: Field, bounds: _Bounds) -> Iterator[bytes]:
    fields: list[Field] = []
    for field in fields_of(request, whole.value, whole.end, bounds):
        fields.append(field)
        if bounds.breathe():
            yield b""
    head = _head(request, fields)
    if len(head) > bounds.head_bytes:  # it would be in every piece
        yield request[whole.start : whole.end]
        return
    for scope in fields:
        if scope.number == CHILDREN:
            for part in _cut_scope(request, scope, bounds):
                yield delimited(RESOURCE_SPANS, head + part) if part else b""


def _cut_scope(request: bytes, whole: Field, bounds: _Bounds) -> Iterator[bytes]:
    """The scope's spans as `scope_spans` fields."""
    fields: list[Field] = []
    if whole.end - whole.start > bounds.piece_bytes:
        for field in fields_of(request, whole.value, whole.end, bounds):
            fields.append(field)
            if bounds.breathe():
                yield b""
    head = _head(request, fields)
    if not fields or len(head) > bounds.head_bytes:
        yield request[whole.start : whole.end]
        return
    gathered: list[bytes] = []
    size = 0
    for field in fields:
        if field.number != CHILDREN:
            continue
        length = field.end - field.start
        if gathered and size + length > bounds.piece_bytes:
            yield delimited(CHILDREN, head + b"".join(gathered))
            gathered, size = [], 0
        gathered.append(request[field.start : field.end])
        size += length
    yield delimited(CHILDREN, head + b"".join(gathered))


def _head(request: bytes, fields: list[Field]) -> bytes:
    """What the children share: the resource or scope, its schema, and whatever else is not a child."""
    return b"".join(request[field.start : field.end] for field in fields if field.number != CHILDREN)


class ItemBound:
    """How many items may be read yet, of *most*; *what* they are."""

    def __init__(self, most: int = MAX_ITEMS, what: str = "spans, scopes and resources in one request") -> None:
        self._left = most
        self._most = most
        self._what = what

    def add(self, count: int) -> None:
        """*count* more. Raises TooLargeError."""
        self._left -= count
        if self._left < 0:
            raise self._refusal()

    def _refusal(self) -> TooLargeError:
        return TooLargeError(f"over {self._most} {self._what}", "no more are read", "Send fewer at once")


class _Bounds(ItemBound):
    """Sizes of pieces, and how many items a request may have."""

    def __init__(self, piece_bytes: int, head_bytes: int) -> None:
        super().__init__()
        self.piece_bytes = piece_bytes
        self.head_bytes = head_bytes
        self._breath = _BREATH_ITEMS

    def add(self, count: int) -> None:
        """*count* more. Raises TooLargeError."""
        self._breath -= count
        self._left -= count  # not by super(): it is called for every span
        if self._left < 0:
            raise self._refusal()

    def breathe(self) -> bool:
        """Whether it is time to let other tasks run."""
        due = self._breath <= 0
        if due:
            self._breath = _BREATH_ITEMS
        return due


def fields_of(data: bytes, at: int, end: int, bound: ItemBound) -> Iterator[Field]:
    """The fields between *at* and *end*. Source: Protocol Buffers encoding, message structure."""
    while at < end:
        bound.add(1)
        start = at
        tag, at = _varint(data, at, end)
        value, kind = at, tag & 7
        if kind == LENGTH_DELIMITED:
            length, value = _varint(data, at, end)
            at = value + length
        elif kind == 0:
            _, at = _varint(data, at, end)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise _malformed(f"wire type {kind} at byte {start}")
        if at > end or tag >> 3 == 0:
            raise _malformed(f"field {tag >> 3} at byte {start} does not fit")
        yield Field(tag >> 3, start, value, at)


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    first = data[at] if at < end else 0x80
    if first < 0x80:
        return first, at + 1
    number = shift = 0
    for position in range(at, min(end, at + _MOST_VARINT)):
        number |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return number, position + 1
        shift += 7
    raise _malformed(f"the number at byte {at} does not end")


def delimited(number: int, content: bytes | bytearray) -> bytes:
    """Field *number* with *content*. Source: Protocol Buffers encoding."""
    length = len(content)
    prefix = bytearray([number << 3 | LENGTH_DELIMITED])
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + content


def _malformed(why: str) -> MalformedError:
    return MalformedError("the body is not an OTLP request", why, _NOT_OTLP)


def _parsed(data: bytes) -> ExportTraceServiceRequest | None:
    try:
        message: ExportTraceServiceRequest = ExportTraceServiceRequest.FromString(data)
        return message
    except DecodeError:
        return None


def _checked(data: bytes, message: ExportTraceServiceRequest, rejected: Rejected) -> Piece:
    """*message* without the spans whose ids no collector takes; unchanged bytes where there are none."""
    count, before = 0, rejected.spans
    for resource_spans in message.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            spans = scope_spans.spans
            wrong = [(index, why) for index, span in enumerate(spans) if (why := wrong_ids(span))]
            for index, why in reversed(wrong):
                del spans[index]
                rejected.add(f"{why}: {span_name(index)}")
            count += len(spans)
    unchanged = rejected.spans == before
    return Piece(data if unchanged else message.SerializeToString(), list(message.resource_spans), count)


def span_name(index: int) -> str:
    """How an error names one span."""
    return f"span {index} of its scope"


def wrong_ids(span: Span) -> str:
    """What is wrong with the ids of *span*; "" if nothing is. Source: OTLP, trace.proto."""
    if len(span.trace_id) != 16 or not any(span.trace_id):
        return "trace_id must be 16 bytes, not all zero"
    if len(span.span_id) != 8 or not any(span.span_id):
        return "span_id must be 8 bytes, not all zero"
    if len(span.parent_span_id) not in (0, 8):
        return "parent_span_id must be 8 bytes, or none"
    for link in span.links:
        if len(link.trace_id) not in (0, 16) or len(link.span_id) not in (0, 8):
            return "a link's ids must be 16 and 8 bytes"
    return ""


def _good_spans_of(data: bytes, rejected: Rejected) -> Piece:
    """What can be read of a piece that cannot be parsed as one: each of its spans by itself."""
    kept: list[Piece] = []
    for alone in _alone(data):
        message = _parsed(alone)
        if message is not None:
            kept.append(_checked(alone, message, rejected))
        else:
            rejected.unreadable += 1
            rejected.add("it cannot be parsed, or its text is not UTF-8")
    return Piece(
        b"".join(piece.data for piece in kept),
        [each for piece in kept for each in piece.resource_spans],
        sum(piece.spans for piece in kept),
    )


def _alone(data: bytes) -> list[bytes]:
    """Each span of a piece in a request of its own; all in one where the frame is broken, or they share much."""
    if len(data) > 2 * PIECE_BYTES:
        return [data]
    try:
        return [alone for alone in cut(data, 0, _SMALL_HEAD) if alone]
    except MalformedError:
        return [data]
