"""Parses the captured part of a body as JSON, as a stream of JSON messages, or as text. Never raises."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from sidecar.gateway.proxied_call import PREFIX_BYTES, Capture

_MISSING = object()
_FIRST_MESSAGES = 250  # always parsed; later ones only if they match `_TELLING`, as they say more than a text delta
_MOST_MESSAGES = 1000
_MOST_LINES = 5000
_TELLING = re.compile(
    rb'"(?:name|usage|error|result|prompt_eval_count|eval_count|stop_reason|done_reason|finish_reason)"\s*:\s*+(?!null)'
    rb'|"type"\s*:\s*"(?:error|response\.failed)"'
)
_ZLIB = {"gzip": 31, "x-gzip": 31, "deflate": 47}
_STREAMS = ("event-stream", "ndjson", "jsonl", "json-seq")


class ReadBody(NamedTuple):
    """A parsed body: *data* if it is one JSON value (`has_data`), *messages* if it is a stream, otherwise *text*."""

    has_data: bool = False
    data: Any = None
    messages: list[Any] = []  # noqa: RUF012 - never mutated
    is_stream: bool = False
    text: str = ""
    readable: bool = True


def read_body(capture: Capture, kind: str, coding: str) -> ReadBody:
    """Parse *capture*, given the body's content type *kind* and content *coding* (both lower case)."""
    if not capture.size:
        return ReadBody()
    raw, whole = _decoded(capture, coding)
    if raw is None:
        return ReadBody(readable=False)
    if any(word in kind for word in _STREAMS):
        return _stream(raw, capture.tail if coding in ("", "identity") else b"", whole, "event-stream" in kind)
    if "json" in kind or raw.lstrip()[:1] in (b"{", b"["):
        value = _json(raw) if whole else _MISSING
        if value is not _MISSING:
            return ReadBody(has_data=True, data=value)
        lines = _json_lines(_telling(_lines(raw))) if b"\n" in raw.strip() else []
        if len(lines) > 1:  # some servers stream JSON lines under another content type
            return ReadBody(messages=lines + _json_lines(capture.tail.splitlines()), is_stream=True)
    text = raw.decode(errors="replace")
    return ReadBody(text=text, readable="\0" not in text[:1024])


def _decoded(capture: Capture, coding: str) -> tuple[bytes | None, bool]:
    """(decoded bytes, whether they are the whole body); the bytes are None if *coding* cannot be undone."""
    raw = capture.prefix
    if coding in ("", "identity"):
        return raw, capture.whole
    if coding not in _ZLIB or not raw:
        return None, False
    unpack = zlib.decompressobj(_ZLIB[coding])
    try:
        data = unpack.decompress(raw, PREFIX_BYTES)
    except zlib.error:
        return None, False
    return data, capture.whole and unpack.eof


def _stream(raw: bytes, tail: bytes, whole: bool, is_sse: bool) -> ReadBody:
    read = _sse_data if is_sse else _lines
    pieces = _telling(list(read(raw)))
    ends = list(read(tail))[-_MOST_MESSAGES:] if not whole else []
    text = "" if pieces else raw[:1024].decode(errors="replace")
    return ReadBody(messages=_json_lines(pieces + ends), is_stream=True, text=text or _first_text(pieces))


def _lines(raw: bytes) -> list[bytes]:
    return raw.split(b"\n", _MOST_LINES)[:_MOST_LINES]


def _telling(pieces: list[bytes]) -> list[bytes]:
    later = [piece for piece in pieces[_FIRST_MESSAGES:] if _TELLING.search(piece) is not None]
    return pieces[:_FIRST_MESSAGES] + later[-_MOST_MESSAGES:]


def _first_text(pieces: list[bytes]) -> str:
    return pieces[0][:1024].decode(errors="replace") if pieces else ""


def _json_lines(lines: list[bytes]) -> list[Any]:
    values = (_json(line) for line in lines if line.strip())
    return [value for value in values if value is not _MISSING]


def _sse_data(raw: bytes) -> Iterator[bytes]:
    """Yield the data of each event. Source: HTML standard, server-sent events."""
    data: list[bytes] = []
    for line in _lines(raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")):
        if not line:
            if data:
                yield b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    if data:
        yield b"\n".join(data)


def _json(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _MISSING
