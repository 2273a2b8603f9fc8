"""OTLP trace requests as bytes: checks them, cuts them into pieces of one turn each, and parses the pieces.

Each piece is a complete `ExportTraceServiceRequest`, so all fields, known or not, are preserved. What is parsed at once
is bounded, because two bytes of a request can become a message of a hundred bytes in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from sidecar.errors import MalformedError, TooLargeError

MAX_REQUEST_BYTES = 20 * 2**20
MAX_ITEMS = 250_000  # spans, scopes and resources in one request
PIECE_BYTES = 48 * 1024  # about a hundred spans: a millisecond or two to parse
_BREATH_ITEMS = 1000  # items in about a millisecond
_SMALL_HEAD = 4096
LENGTH_DELIMITED = 2
_FIXED = {1: 8, 5: 4}  # wire type → bytes
CHILDREN = 2  # field number of `scope_spans` in a resource's spans, and of `spans` in a scope's
RESOURCE_SPANS = 1
_MOST_VARINT = 10
_NOT_OTLP = "Send an OTLP ExportTraceServiceRequest"


class Rejected:
    """Counts rejected spans of a request and keeps the first reason. *unreadable* spans could not be parsed."""

    def __init__(self) -> None:
        self.spans = 0
        self.unreadable = 0
        self.why = ""

    def add(self, why: str) -> None:
        """Count one more."""
        self.spans += 1
        self.why = self.why or why


class Piece(NamedTuple):
    """Some spans of a request with their resource and scope, without rejected ones: as bytes, and parsed."""

    data: bytes
    resource_spans: list[ResourceSpans]
    spans: int


class Field(NamedTuple):
    """The position of a field."""

    number: int
    start: int  # position of its tag
    value: int  # position of its content, if length-delimited
    end: int


def read_piece(data: bytes, rejected: Rejected) -> Piece:
    """Parse one piece; spans that cannot be forwarded are left out and counted in *rejected*."""
    message = _parsed(data)
    return _good_spans_of(data, rejected) if message is None else _checked(data, message, rejected)


def cut(request: bytes, piece_bytes: int = PIECE_BYTES, head_bytes: int = PIECE_BYTES) -> Iterator[bytes]:
    """Cut *request* into requests of about *piece_bytes*; more for a large span, or over *head_bytes* of shared data.

    It yields empty pieces now and then, so that the caller can let other tasks run. Raises MalformedError if the
    framing is broken, TooLargeError if there are too many items.
    """
    if len(request) <= piece_bytes:
        yield request
        return
    bounds = _Bounds(piece_bytes, head_bytes)
    start = end = 0  # the range of small fields gathered so far
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
    if len(head) > bounds.head_bytes:  # it would be repeated in every piece
        yield request[whole.start : whole.end]
        return
    for scope in fields:
        if scope.number == CHILDREN:
            for part in _cut_scope(request, scope, bounds):
                yield delimited(RESOURCE_SPANS, head + part) if part else b""


def _cut_scope(request: bytes, whole: Field, bounds: _Bounds) -> Iterator[bytes]:
    """Yield the scope's spans, in pieces, as `scope_spans` fields."""
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
    """What the children share: the resource or scope, its schema URL, and everything else that is not a child."""
    return b"".join(request[field.start : field.end] for field in fields if field.number != CHILDREN)


class ItemBound:
    """Bounds the number of items read to *most*; *what* names them in the error."""

    def __init__(self, most: int = MAX_ITEMS, what: str = "spans, scopes and resources in one request") -> None:
        self._left = most
        self._most = most
        self._what = what

    def add(self, count: int) -> None:
        """Count *count* more. Raises TooLargeError."""
        self._left -= count
        if self._left < 0:
            raise self._refusal()

    def _refusal(self) -> TooLargeError:
        return TooLargeError(f"over {self._most} {self._what}", "no more are read", "Send fewer at once")


class _Bounds(ItemBound):
    """The sizes of pieces, and the bound on a request's items."""

    def __init__(self, piece_bytes: int, head_bytes: int) -> None:
        super().__init__()
        self.piece_bytes = piece_bytes
        self.head_bytes = head_bytes
        self._breath = _BREATH_ITEMS

    def add(self, count: int) -> None:
        """Count *count* more. Raises TooLargeError."""
        self._breath -= count
        self._left -= count  # no super() call, as this runs for every span
        if self._left < 0:
            raise self._refusal()

    def breathe(self) -> bool:
        """Whether it is time to let other tasks run."""
        due = self._breath <= 0
        if due:
            self._breath = _BREATH_ITEMS
        return due


def fields_of(data: bytes, at: int, end: int, bound: ItemBound) -> Iterator[Field]:
    """Yield the fields between *at* and *end*. Source: Protocol Buffers encoding, message structure."""
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
    """Field *number* with *content*, length-delimited. Source: Protocol Buffers encoding."""
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
    """*message* without spans whose ids are invalid; the original bytes if there are none."""
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
    """The name of a span in error texts."""
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
    """The readable spans of a piece that does not parse as a whole: each span is parsed alone."""
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
    """Each span of a piece as its own request; one request if the framing is broken, or the piece is too large."""
    if len(data) > 2 * PIECE_BYTES:
        return [data]
    try:
        return [alone for alone in cut(data, 0, _SMALL_HEAD) if alone]
    except MalformedError:
        return [data]
