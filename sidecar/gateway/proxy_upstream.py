"""The proxy's side towards the gateway: a connection that carries one exchange at a time. See `proxy_pool`."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import httptools

from sidecar.gateway.proxy_buffer import WRITE_BUFFER_BYTES, ReadBuffer
from sidecar.gateway.proxy_head import ResponseHead, read_response

_MOST_HEAD_BYTES = 256 * 1024
_MOST_FIELDS = 2000
_MOST_TRAILERS = 100
_TOO_LARGE = "the head of its answer is too large"


class ResponseTaker(Protocol):
    """Who waits for the response: an exchange."""

    method: bytes

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response."""

    def response_head(self, head: ResponseHead, *, until_close: bool) -> None:
        """The response begins; *until_close*: its body ends with the connection."""

    def response_data(self, data: bytes) -> None:
        """A piece of its body."""

    def response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """It is whole; the connection may be used again only after `after_data`."""

    def after_data(self) -> None:
        """All of one read has been handed over."""

    def upstream_lost(self, why: str, error_type: str) -> None:
        """It will not be whole."""

    def upstream_paused(self, paused: bool) -> None:
        """The gateway reads more slowly than the request comes, or no longer."""


class Home(Protocol):
    """Where connections come from and go back to: the pool."""

    buffer: ReadBuffer

    def opened(self, connection: UpstreamConnection) -> None:
        """*connection* is there."""

    def give_back(self, connection: UpstreamConnection) -> None:
        """*connection* may carry the next exchange."""

    def forget(self, connection: UpstreamConnection) -> None:
        """*connection* is no more."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """One connection to the gateway. Parses responses; httptools calls the `on_…` methods."""

    def __init__(self, pool: Home) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.taker: ResponseTaker | None = None
        self.reused = False
        self.heard = False  # something of the response came
        self.idle_since = 0.0
        self._parser: Any = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._unheard_bytes = 0  # bytes that brought neither body nor the end of a message
        self._in_body = self._interim = self._until_close = self._keep_alive = False
        self._fault = ""
        self._write_paused = False

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._pool.opened(self)

    def get_buffer(self, _sizehint: int) -> bytearray | memoryview:
        """One for all connections: what is read is taken out of it at once."""
        return self._pool.buffer.room

    def buffer_updated(self, nbytes: int) -> None:
        """Parse and hand over."""
        taker = self.taker
        if taker is None:
            self.abort()  # nobody asked
            return
        self.heard = True
        self._unheard_bytes += nbytes
        try:
            self._parser.feed_data(memoryview(self._pool.buffer.data)[:nbytes])
        except httptools.HttpParserUpgrade:
            self._fault = "it switched protocols"
        except httptools.HttpParserError as exc:
            self._fault = self._fault or f"its answer is not HTTP/1.1: {exc}"
        if self._unheard_bytes > _MOST_HEAD_BYTES:
            self._fault = self._fault or _TOO_LARGE
        if self._fault:
            self._lost(self._fault)
        taker.after_data()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of a body that has no other, or of hope."""
        self._pause_writing(False)
        self._pool.forget(self)
        if self.taker is not None and self._in_body and self._until_close and exc is None:
            taker = self.taker
            self.taker = None
            taker.response_end([])
            taker.after_data()
        else:
            self._lost(str(exc) if exc else "it closed the connection")
        self._parser = None  # it holds our methods: a cycle

    def pause_writing(self) -> None:
        """The gateway reads slowly."""
        self._pause_writing(True)
        if self.taker is not None:
            self.taker.upstream_paused(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._pause_writing(False)
        if self.taker is not None:
            self.taker.upstream_paused(False)

    # -- for the exchange

    def carry(self, taker: ResponseTaker) -> None:
        """From now on the responses are for *taker*."""
        self.taker = taker
        self.heard = False
        self._begin_head()
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)

    def abort(self) -> None:
        """Hang up at once: the gateway notices that nobody wants its answer."""
        self.taker = None
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()

    # -- httptools

    def on_status(self, reason: bytes) -> None:
        """A piece of the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head or, behind the body, of the trailer."""
        if self._in_body:
            if len(self._trailers) < _MOST_TRAILERS:
                self._trailers.append((name, value))
        elif len(self._headers) < _MOST_FIELDS:
            self._headers.append((name, value))
        else:
            self._fault = _TOO_LARGE

    def on_headers_complete(self) -> None:
        """The head is whole: hand it over."""
        taker = self.taker
        if taker is None or self._fault:
            return
        status = self._parser.get_status_code()
        try:
            head = read_response(status, self._reason, self._headers)
        except ValueError as exc:
            self._fault = str(exc)
            return
        self._interim = 100 <= status < 200
        if self._interim:
            if status == 101:
                self._fault = "it switched protocols, unasked"
            else:
                taker.interim(head)
            return
        self._in_body = True
        self._keep_alive = self._parser.should_keep_alive()
        bodiless = taker.method == b"HEAD" or status in (204, 304)
        self._until_close = not (bodiless or head.chunked or head.length is not None)
        taker.response_head(head, until_close=self._until_close)
        if taker.method == b"HEAD":
            self._parser_is_behind()
            self._end()

    def on_message_begin(self) -> None:
        """A response begins."""
        if self.taker is None:
            self._keep_alive = False  # more than was asked for: what comes next cannot be told apart

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._unheard_bytes = 0
        if self.taker is not None and not self._fault:
            self.taker.response_data(data)
        else:
            self._keep_alive = False

    def on_message_complete(self) -> None:
        """The response is whole."""
        self._unheard_bytes = 0
        if self._interim:
            self._begin_head()
        elif self._in_body and not self._fault:
            self._end()

    def _pause_writing(self, paused: bool) -> None:
        self._pool.buffer.stalled += paused - self._write_paused
        self._write_paused = paused

    def _begin_head(self) -> None:
        self._headers, self._trailers, self._reason = [], [], b""
        self._in_body = self._interim = self._until_close = False
        self._unheard_bytes = 0

    def _parser_is_behind(self) -> None:
        """It waits for the body that a HEAD's answer announces and does not have: the next gets a new one."""
        self._parser = None

    def _end(self) -> None:
        taker, self.taker = self.taker, None
        self._in_body = False
        if taker is not None:
            taker.response_end(self._trailers)

    def settle(self, *, request_whole: bool) -> None:
        """The exchange is over: keep the connection for the next, if both sides are where they should be."""
        if request_whole and self._keep_alive and not self._fault and self.transport is not None:
            self._pool.give_back(self)
        else:
            self.abort()

    def _lost(self, why: str) -> None:
        taker, self.taker = self.taker, None
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()
        if taker is not None:
            taker.upstream_lost(why, "RemoteProtocolError")
