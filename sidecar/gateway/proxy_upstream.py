"""The upstream side of the proxy: a gateway connection, which carries one exchange at a time. See `proxy_pool`."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import httptools

from sidecar.gateway.proxy_buffer import WRITE_BUFFER_BYTES, ReadBuffer
from sidecar.gateway.proxy_head import ResponseHead, read_response

_MOST_HEAD_BYTES = 256 * 1024
_MOST_FIELDS = 2000
_MOST_TRAILERS = 100
_TOO_LARGE = "its response head is too large"


class ResponseTaker(Protocol):
    """Receives the parsed response: an exchange."""

    method: bytes

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response."""

    def response_head(self, head: ResponseHead, *, until_close: bool) -> None:
        """The response begins; *until_close*: its body ends with the connection."""

    def response_data(self, data: bytes) -> None:
        """A piece of its body."""

    def response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The response is complete; the connection may be reused only after `after_data`."""

    def after_data(self) -> None:
        """Everything from one read has been passed on."""

    def upstream_lost(self, why: str, error_type: str) -> None:
        """The response will not be completed."""

    def upstream_paused(self, paused: bool) -> None:
        """Writing to the gateway is paused, as it reads slowly, or resumed."""


class ConnectionOwner(Protocol):
    """The owner of the connections: the pool."""

    buffer: ReadBuffer

    def opened(self, connection: UpstreamConnection) -> None:
        """*connection* is established."""

    def give_back(self, connection: UpstreamConnection) -> None:
        """*connection* may carry the next exchange."""

    def forget(self, connection: UpstreamConnection) -> None:
        """*connection* is closed."""


class UpstreamConnection(asyncio.BufferedProtocol):
    """One connection to the gateway. Parses responses; httptools calls the `on_…` methods."""

    def __init__(self, pool: ConnectionOwner) -> None:
        self._pool = pool
        self.transport: asyncio.Transport | None = None
        self.taker: ResponseTaker | None = None
        self.reused = False
        self.heard = False  # bytes have arrived in this exchange
        self.idle_since = 0.0
        self._parser: Any = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._reason = b""
        self._overhead_bytes = 0  # bytes since the last body data or end of a message: heads, trailers, chunk sizes
        self._in_body = self._interim = self._until_close = self._keep_alive = False
        self._fault = ""
        self._write_paused = False

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the new connection with the pool."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._pool.opened(self)

    def get_buffer(self, _sizehint: int) -> bytearray | memoryview:
        """The buffer shared by all connections: `buffer_updated` empties it before the next read."""
        return self._pool.buffer.room

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read, and pass it on."""
        taker = self.taker
        if taker is None:
            self.abort()  # unsolicited bytes
            return
        self.heard = True
        self._overhead_bytes += nbytes
        try:
            self._parser.feed_data(memoryview(self._pool.buffer.data)[:nbytes])
        except httptools.HttpParserUpgrade:
            self._fault = "it switched protocols"
        except httptools.HttpParserError as exc:
            self._fault = self._fault or f"its response is not valid HTTP/1.1: {exc}"
        if self._overhead_bytes > _MOST_HEAD_BYTES:
            self._fault = self._fault or _TOO_LARGE
        if self._fault:
            self._lost(self._fault)
        taker.after_data()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a body that is delimited by the close; any other response has failed."""
        self._pause_writing(False)
        self._pool.forget(self)
        if self.taker is not None and self._in_body and self._until_close and exc is None:
            taker = self.taker
            self.taker = None
            taker.response_end([])
            taker.after_data()
        else:
            self._lost(str(exc) if exc else "it closed the connection")
        self._parser = None  # it refers to our methods: break the cycle

    def pause_writing(self) -> None:
        """The gateway reads slowly: tell the exchange."""
        self._pause_writing(True)
        if self.taker is not None:
            self.taker.upstream_paused(True)

    def resume_writing(self) -> None:
        """The gateway has caught up: tell the exchange."""
        self._pause_writing(False)
        if self.taker is not None:
            self.taker.upstream_paused(False)

    # -- for the exchange

    def carry(self, taker: ResponseTaker) -> None:
        """Begin an exchange: the next response goes to *taker*."""
        self.taker = taker
        self.heard = False
        self._begin_head()
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)

    def abort(self) -> None:
        """Close at once: the gateway notices that its answer is no longer wanted."""
        self.taker = None
        self._pool.forget(self)
        if self.transport is not None:
            self.transport.abort()

    # -- httptools

    def on_status(self, reason: bytes) -> None:
        """A piece of the reason phrase."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head or, after the body, of the trailer."""
        if self._in_body:
            if len(self._trailers) < _MOST_TRAILERS:
                self._trailers.append((name, value))
        elif len(self._headers) < _MOST_FIELDS:
            self._headers.append((name, value))
        else:
            self._fault = _TOO_LARGE

    def on_headers_complete(self) -> None:
        """The head is complete: pass it on."""
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
                self._fault = "it switched protocols without being asked to"
            else:
                taker.interim(head)
            return
        self._in_body = True
        self._keep_alive = self._parser.should_keep_alive()
        bodiless = taker.method == b"HEAD" or status in (204, 304)
        self._until_close = not (bodiless or head.chunked or head.length is not None)
        taker.response_head(head, until_close=self._until_close)
        if taker.method == b"HEAD":
            self._discard_parser()
            self._end()

    def on_message_begin(self) -> None:
        """A response begins."""
        if self.taker is None:
            self._keep_alive = False  # unsolicited: later responses could not be matched to requests

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._overhead_bytes = 0
        if self.taker is not None and not self._fault:
            self.taker.response_data(data)
        else:
            self._keep_alive = False

    def on_message_complete(self) -> None:
        """The response is complete."""
        self._overhead_bytes = 0
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
        self._overhead_bytes = 0

    def _discard_parser(self) -> None:
        """Discard the parser: it waits for the body that a response to HEAD announces but does not have."""
        self._parser = None

    def _end(self) -> None:
        taker, self.taker = self.taker, None
        self._in_body = False
        if taker is not None:
            taker.response_end(self._trailers)

    def settle(self, *, request_whole: bool) -> None:
        """The exchange is over: return to the pool if the request is complete and keep-alive holds; else close."""
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
