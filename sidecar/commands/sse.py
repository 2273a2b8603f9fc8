"""Reads a stream of server-sent events. Source: WHATWG HTML, 9.2.6 Interpreting an event stream."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """One event; *name* is `message` if the stream gives none."""

    name: str
    data: bytes


class EventParser:
    """Parses bytes as they arrive into events.

    Lines end at LF or CR LF only: an op's text may contain U+2028 or U+0085, at which `splitlines` would split.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that *chunk* completes; comments are skipped."""
        self._rest += chunk
        if b"\n" not in chunk:
            return []
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        events: list[Event] = []
        for line in lines:
            self._take(line.removesuffix(b"\r"), events)
        return events

    def _take(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(self._name.decode("utf-8", "replace") or "message", b"\n".join(self._data)))
            self._name, self._data = b"", []
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value
        elif field == b"data":
            self._data.append(value)
