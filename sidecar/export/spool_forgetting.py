"""Erases a person from a spool: blanks out spans that carry their id as an attribute, masks the id elsewhere.

Every record keeps its length, so the spool's offsets and cursor stay valid. A blanked span becomes an unknown field,
which every OTLP reader skips. Runs while nothing else uses the folder. An interrupted run can be repeated.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sidecar.export.frames import HEAD_BYTES, SpoolRecord, framed, frames
from sidecar.export.spool_segments import segments_in

_REQUEST: Final[Descriptor] = ExportTraceServiceRequest.DESCRIPTOR
_SPAN: Final[Descriptor] = Span.DESCRIPTOR
_KEY: Final = KeyValue.DESCRIPTOR.fields_by_name["key"]
_MORE: Final = 0x80  # continuation bit of a varint byte
_MOST_SHIFT: Final = 63
_BLOT: Final = 15 << 3 | 2  # tag of a length-delimited field that no OTLP message has


class _Field(NamedTuple):
    """A length-delimited field: its tag is at *tag_at*, its content from *start* to *end*."""

    number: int
    tag_at: int
    start: int
    end: int


class SpoolForgetting:
    """Erases *staffer_id*. Counters: `spans` blanked, `masked` occurrences of the id elsewhere."""

    def __init__(self, staffer_id: str) -> None:
        self._id = staffer_id
        self._needle = staffer_id.encode()
        spelled = {self._needle, msgspec.json.encode(staffer_id)[1:-1], json.dumps(staffer_id)[1:-1].encode()}
        either = b"|".join(re.escape(each) for each in sorted(spelled, key=len, reverse=True))
        self._spelled = spelled
        self._pattern = re.compile(rb"(?<![\w-])(?:%b)(?![\w-])" % either)
        self.spans = 0
        self.masked = 0

    def folder(self, folder: Path, *, addressed: bool = False) -> None:
        """Erase from a whole spool. *addressed*: a line with the path precedes each record's body. Raises OSError."""
        if not folder.is_dir():
            return
        for segment in segments_in(folder):
            about = segment.path.stat()
            fd = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                self._segment(fd, segment.size, addressed=addressed)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.utime(segment.path, ns=(about.st_atime_ns, about.st_mtime_ns))  # mtime is the age of the records

    def _segment(self, fd: int, size: int, *, addressed: bool) -> None:
        for frame in frames(fd, 0, size):
            if frame.request is None:
                at = frame.start + (HEAD_BYTES if frame.spans else 0)
                os.pwrite(fd, self._mask(os.pread(fd, frame.end - at, at)), at)
                continue
            if not any(each in frame.request for each in self._spelled):
                continue
            clean = self._addressed(frame.request) if addressed else self._request(frame.request)
            if clean != frame.request:
                os.pwrite(fd, framed(SpoolRecord(clean, frame.spans)), frame.start)

    def _addressed(self, record: bytes) -> bytes:
        head, _, body = record.partition(b"\n")
        try:
            is_otlp = msgspec.json.decode(head)["path"].endswith("/v1/traces")
        except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
            is_otlp = False
        return self._mask(head) + b"\n" + (self._request(body) if is_otlp else self._mask(body))

    def _request(self, request: bytes) -> bytes:
        """An `ExportTraceServiceRequest` with the person erased; if it does not parse, it is masked as text."""
        clean = bytearray(request)
        spans, masked = self.spans, self.masked
        try:
            self._message(clean, 0, len(clean), _REQUEST)
        except (ValueError, IndexError):
            self.spans, self.masked = spans, masked
            return self._mask(request)
        return bytes(clean)

    def _message(self, data: bytearray, start: int, end: int, known: Descriptor) -> None:
        for field in _fields(data, start, end):
            inside = bytes(data[field.start : field.end])
            if self._needle not in inside:
                continue
            about = known.fields_by_number.get(field.number)
            if about is None or about.message_type is None:
                if about is not _KEY:
                    data[field.start : field.end] = self._mask(inside)
            elif about.message_type is _SPAN and data[field.tag_at] < _MORE and self._is_theirs(inside):
                data[field.tag_at] = _BLOT
                data[field.start : field.end] = bytes(len(inside))
                self.spans += 1
            else:
                self._message(data, field.start, field.end, about.message_type)

    def _is_theirs(self, span: bytes) -> bool:
        """Whether the id is the value of one of the span's attributes."""
        try:
            return any(each.value.string_value == self._id for each in Span.FromString(span).attributes)
        except DecodeError:
            return False

    def _mask(self, data: bytes) -> bytes:
        clean, found = self._pattern.subn(lambda match: b"*" * len(match[0]), data)
        self.masked += found
        return clean


def _fields(data: bytearray, start: int, end: int) -> Iterator[_Field]:
    """Yield the length-delimited fields in [*start*, *end*). Raises ValueError or IndexError if it is no message."""
    at = start
    while at < end:
        tag_at = at
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:  # varint
                _, at = _varint(data, at)
            case 1:  # 64 bits
                at += 8
            case 5:  # 32 bits
                at += 4
            case 2:  # length-delimited
                size, at = _varint(data, at)
                if at + size > end:
                    raise ValueError("a field is longer than what it is in")
                yield _Field(tag >> 3, tag_at, at, at + size)
                at += size
            case other:
                raise ValueError(f"wire type {other}")
    if at != end:
        raise ValueError("a field is cut off")


def _varint(data: bytearray, at: int) -> tuple[int, int]:
    """Decode the varint at *at*: its value, and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & (_MORE - 1)) << shift
        if byte < _MORE:
            return value, at
        shift += 7
        if shift > _MOST_SHIFT:
            raise ValueError("a number has no end")
