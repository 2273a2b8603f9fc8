"""Parses an agent's requests, one at a time: pipelined requests are held until the current one is answered.

Agents may send many requests at once. llhttp would parse everything that one read returned, so it is fed no more than
one message: a head, a chunked body and its trailer each end with an empty line; any other body has a length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import httptools

from sidecar.gateway.proxy_head import RequestHead, RequestRules
from sidecar.gateway.proxy_refusal import MALFORMED, PROBED, TOO_LARGE, RefusedError

_MOST_HEAD_BYTES = 64 * 1024
_MOST_FIELDS = 512
_MOST_HELD_BYTES = 16 * 1024
_EMPTY_LINE = b"\r\n\r\n"


class RequestTaker(Protocol):
    """Receives the parsed requests: an agent connection."""

    def request_head(self, head: RequestHead) -> None:
        """A request begins that may be forwarded."""

    def request_data(self, data: bytes) -> None:
        """A piece of its body."""

    def request_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The request is complete; nothing more is parsed before `next`."""

    def refused(self, refusal: RefusedError) -> None:
        """The bytes are no request, or none that may be forwarded; nothing more is parsed."""


class RequestReader:
    """Parses the requests of one connection. httptools calls the `on_…` methods."""

    def __init__(self, taker: RequestTaker, rules: RequestRules, now: Callable[[], float]) -> None:
        self._taker = taker
        self._rules = rules
        self._now = now
        self._parser: Any = httptools.HttpRequestParser(self)
        self._held = b""
        self._last = b""  # the last three bytes that were parsed
        self._refusal: RefusedError | None = None  # never reset: nothing after it can be trusted to be a request
        self._parsing = False
        self._whole = False
        self._overhead_bytes = 0  # bytes since the last body data or end of a message: heads, trailers, chunk sizes
        self.head_since: float | None = now()
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._body_left = 0  # missing bytes of a body with Content-Length
        self._offered: RequestHead | None = None
        self.in_body = False

    # -- for the connection

    @property
    def full(self) -> bool:
        """Whether to stop reading: enough is held. Until then reading goes on, as it notices a disconnect."""
        return len(self._held) > _MOST_HELD_BYTES

    def feed(self, data: bytes | bytearray, size: int) -> None:
        """Parse the first *size* bytes of *data*, or hold a copy of them until the current request is answered."""
        if self._whole or self._held:
            self._held += data[:size]
        else:
            self._parse(data, size)

    def next(self) -> None:
        """The last request is answered: parse on in the held bytes."""
        self._whole = False
        if self._held and not self._parsing:
            held, self._held = self._held, b""
            self._parse(held, len(held))

    def close(self) -> None:
        """Stop parsing for good."""
        self._refusal = self._refusal or MALFORMED
        self._held = b""
        self._headers, self._trailers = [], []
        self._parser = None  # it refers to our methods: break the cycle

    # -- httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._whole:  # should never happen: answers would go to the wrong request
            self._refusal = MALFORMED
            return
        self._begin()
        self.head_since = self._now()

    def on_url(self, part: bytes) -> None:
        """A piece of the request target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head or, after the body, of the trailer."""
        fields = self._trailers if self.in_body else self._headers
        if len(fields) < _MOST_FIELDS:
            fields.append((name, value))
        else:
            self._refusal = self._refusal or TOO_LARGE

    def on_headers_complete(self) -> None:
        """The head is complete: accept or refuse it."""
        self.head_since = None
        if self._refusal is not None:
            return
        try:
            head = self._read_head()
        except RefusedError as refusal:
            self._refusal = refusal
            return
        if self._parser.should_upgrade():
            self._offered = head  # the parser saw an upgrade and will not read the body: see _declined
        elif head.probe:
            self._refusal = PROBED
        else:
            self.in_body = True
            self._body_left = head.length
            self._taker.request_head(head)

    def _read_head(self) -> RequestHead:
        parser = self._parser
        version, keep_alive = parser.get_http_version(), parser.should_keep_alive()
        return self._rules.read(
            parser.get_method(), self._target, self._headers, version=version, keep_alive=keep_alive
        )

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._overhead_bytes = 0
        self._body_left -= len(data)
        if self._refusal is None:
            self._taker.request_data(data)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._overhead_bytes = 0
        if self._offered is None and self._refusal is None:
            self.in_body, self._whole = False, True
            self._taker.request_end(self._trailers)

    # -- inside

    def _parse(self, data: bytes | bytearray, size: int) -> None:
        """Parse until a request is complete, and hold the rest."""
        self._parsing, at = True, 0
        while at < size and not self._whole and self._parser is not None:
            end = self._end_of_piece(data, at, size)
            self._overhead_bytes += end - at
            try:
                self._parser.feed_data(memoryview(data)[at:end])
            except httptools.HttpParserUpgrade as exc:
                data = self._declined(bytes(data[at + exc.args[0] : size]))
                size, end = len(data), 0
            except httptools.HttpParserError:
                self._refusal = self._refusal or MALFORMED
            if self._overhead_bytes > _MOST_HEAD_BYTES:
                self._refusal = self._refusal or TOO_LARGE
            self._last = (self._last + data[max(at, end - 3) : end])[-3:]
            at = end
            if self._refusal is not None and self._parser is not None:
                self._taker.refused(self._refusal)
                break
        self._parsing = False
        if at < size and self._refusal is None:
            self._held = bytes(data[at:size])

    def _end_of_piece(self, data: bytes | bytearray, at: int, size: int) -> int:
        if self._body_left > 0:
            return min(size, at + self._body_left)
        across = (self._last + data[at : min(at + 3, size)]).find(_EMPTY_LINE)  # the empty line may span two reads
        if across >= 0:
            return at + across + len(_EMPTY_LINE) - len(self._last)
        found = data.find(_EMPTY_LINE, at, size)
        return size if found < 0 else found + len(_EMPTY_LINE)

    def _declined(self, rest: bytes) -> bytes:
        """The bytes for a new parser after an ignored offer of HTTP/2: the head without the offer, then *rest*."""
        offered = self._offered
        if offered is None:
            self._refusal = self._refusal or MALFORMED
            return b""
        self._parser = httptools.HttpRequestParser(self)
        return offered.without_offer() + rest
