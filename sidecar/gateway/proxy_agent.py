"""The proxy's side towards the agents: reads requests, one exchange after the other on each connection."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import httptools

from sidecar.gateway.proxy_exchange import Exchange, ExchangeParts, local_response
from sidecar.gateway.proxy_head import RefusedError, RequestHead, RequestRules

_MOST_HEAD_BYTES = 64 * 1024
_MOST_DROPPED_BYTES = 64 * 2**20
_LINGER_S = 2.0
_MALFORMED = RefusedError(400, "Bad Request", "this is not HTTP/1.1: send a valid request")
_TOO_LARGE = RefusedError(431, "Request Header Fields Too Large", "the request's head is too large: send less of it")
_TOO_SLOW = RefusedError(408, "Request Timeout", "the request came too slowly: send it again, faster")


class Agents:
    """The open connections of agents, and what was refused to them by status."""

    def __init__(self) -> None:
        self.connections: set[AgentConnection] = set()
        self.refused: dict[str, int] = {}
        self.closing = False
        self._quiet: asyncio.Event | None = None

    async def quiet(self) -> None:
        """Return once no connection is left; each hangs up after the call that is under way (`closing`)."""
        self._quiet = asyncio.Event()
        if self.connections:
            await self._quiet.wait()

    def gone(self, connection: AgentConnection) -> None:
        """*connection* is no more."""
        self.connections.discard(connection)
        if self._quiet is not None and not self.connections:
            self._quiet.set()

    def count_refused(self, status: int) -> None:
        """One request was answered with *status* by the proxy itself, unobserved."""
        key = str(status)
        self.refused[key] = self.refused.get(key, 0) + 1


class AgentConnection(asyncio.Protocol):
    """One connection of an agent. httptools calls the `on_…` methods."""

    def __init__(
        self, agents: Agents, rules: RequestRules, parts: ExchangeParts, on_probe: Callable[[], bytes]
    ) -> None:
        self._agents = agents
        self._rules = rules
        self._parts = parts
        self._on_probe = on_probe
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._queue: deque[Exchange] = deque()
        self._reading: Exchange | None = None  # whose request is under way
        self._out: list[bytes] = []
        self.write_paused = False
        self._read_paused = False
        self.active_at = parts.loop.time()
        self._head_since: float | None = self.active_at
        self._linger_since: float | None = None
        self._dropped_bytes = 0
        self._refusal: RefusedError | None = None  # once set it stays: nothing behind it is a request
        self._is_deaf = False  # something was refused: nothing that follows is a request
        self._new_request()

    def _new_request(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers: list[tuple[bytes, bytes]] = []
        self._in_body = False
        self._unheard_bytes = 0  # bytes that brought neither body nor the end of a message
        self._offered: RequestHead | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._agents.connections.add(self)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse, and send on what came."""
        self.active_at = self._parts.loop.time()
        if self._linger_since is not None or self._is_deaf:
            self._drop(data)
            return
        self._unheard_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._decline(data[exc.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or _MALFORMED)
        else:
            if self._refusal is not None:
                self._refuse(self._refusal)
            elif self._unheard_bytes > _MOST_HEAD_BYTES:
                self._refuse(_TOO_LARGE)
        self.flush()
        if self._queue:
            self._queue[0].send_on()
        self.regulate()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The agent is gone: what it waited for is given up."""
        self._agents.gone(self)
        self._linger_since = self._transport = None
        if self._queue:
            self._queue[0].agent_lost()
        self._discard_queue()
        self._parser = None  # it holds our methods: a cycle

    def pause_writing(self) -> None:
        """The agent reads slowly: so is the gateway read."""
        self.write_paused = True
        if self._queue:
            self._queue[0].agent_paused(True)

    def resume_writing(self) -> None:
        """It has caught up."""
        self.write_paused = False
        self.active_at = self._parts.loop.time()
        if self._queue:
            self._queue[0].agent_paused(False)

    # -- for the exchange: an AgentSide

    def send(self, *parts: bytes) -> None:
        """Write *parts* with whatever else is written before `flush`."""
        self._out += parts

    def flush(self) -> None:
        """Hand over what was written."""
        if self._out:
            out, self._out = self._out, []
            if self._transport is not None and not self._transport.is_closing():
                self._transport.writelines(out)

    def regulate(self) -> None:
        """Read on, or stop reading: one request at a time, and no faster than the gateway takes it."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        wanted = len(self._queue) > 1 or (bool(self._queue) and self._queue[0].full)
        if wanted and not self._read_paused:
            transport.pause_reading()
        elif self._read_paused and not wanted:
            transport.resume_reading()
        self._read_paused = wanted

    def exchange_over(self, *, close: bool) -> None:
        """The response is whole: the next, or the end."""
        if not self._queue:
            return
        done = self._queue.popleft()
        self.active_at = self._parts.loop.time()
        if close or (self._agents.closing and not self._queue):
            self._discard_queue()
            self._hang_up(linger=not done.request_whole)
            return
        if self._queue:
            self._queue[0].begin()
        elif self._is_deaf and self._refusal is not None:
            self._refuse(self._refusal)
        self.regulate()

    def cut_off(self, *, abruptly: bool) -> None:
        """The response will not be whole: close, so that the agent sees it."""
        self._discard_queue()
        if self._transport is not None:
            if abruptly:
                self._transport.abort()
            else:
                self.flush()
                self._transport.close()

    # -- for the proxy

    def sweep(self, now: float) -> None:
        """End what is late; *now* is the loop's time."""
        limits = self._parts.limits
        if self._linger_since is not None:
            if now - self._linger_since > _LINGER_S and self._transport is not None:
                self._transport.abort()
        elif self._queue:
            self._queue[0].sweep(now)
        elif self._head_since is not None:
            if now - self._head_since > limits.head_s:
                self._refuse(_TOO_SLOW)
                self.flush()
        elif now - self.active_at > limits.keep_alive_s:
            self._hang_up(linger=False)

    def close_if_idle(self) -> None:
        """The proxy stops: hang up unless a call is under way."""
        if not self._queue:
            self._hang_up(linger=False)

    def abort(self) -> None:
        """Hang up at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._refusal is None:
            self._new_request()
            self._head_since = self._parts.loop.time()

    def on_url(self, part: bytes) -> None:
        """A piece of the target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head or, behind the body, of the trailer."""
        if self._in_body:
            self._trailers.append((name, value))
        else:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole: accept or refuse it."""
        if self._refusal is not None:
            return
        parser = self._parser
        self._head_since, self._in_body = None, True
        try:
            head = self._rules.read(
                parser.get_method(),
                self._target,
                self._headers,
                version=parser.get_http_version(),
                keep_alive=parser.should_keep_alive(),
            )
        except RefusedError as refusal:
            self._refusal = refusal
            return
        if parser.should_upgrade():
            self._offered = head  # whatever it took for an offer, the parser will not read the body; see _decline
            return
        if head.probe:
            self._refusal = RefusedError(204, "No Content", "")
            return
        self._accept(head)

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self._unheard_bytes = 0
        if self._reading is not None and self._refusal is None:
            if self._reading.over:
                self._dropped_bytes += len(data)
                if self._dropped_bytes > _MOST_DROPPED_BYTES:
                    self.abort()
            self._reading.request_data(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._unheard_bytes = 0
        if self._offered is not None or self._refusal is not None:
            return
        self._in_body = False
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.request_end(self._trailers)

    # -- inside

    def _accept(self, head: RequestHead) -> None:
        self._reading = Exchange(self, head, self._parts)
        self._dropped_bytes = 0
        self._queue.append(self._reading)
        if len(self._queue) == 1:
            self._reading.begin()

    def _decline(self, rest: bytes) -> None:
        """The agent offered HTTP/2, which it may: go on as if it had not, with a parser that reads the body."""
        offered = self._offered
        if offered is None:
            self._refuse(self._refusal or _MALFORMED)
            return
        self._parser = httptools.HttpRequestParser(self)
        self.data_received(offered.without_offer() + rest)

    def _refuse(self, refusal: RefusedError) -> None:
        """Answer it ourselves, and close: what follows cannot be trusted to be a request."""
        self._refusal = refusal
        if self._queue and self._queue[-1] is self._reading:  # its own body went wrong on the way
            exchange = self._queue.pop()
            begun, head_sent = not self._queue, exchange.head_sent
            if begun:
                exchange.agent_broke()
            exchange.discard()
            if head_sent:
                self.cut_off(abruptly=False)
                return
        if self._queue:  # those before it are answered first
            self._is_deaf = True
            return
        if refusal.status == 204:
            self.send(self._on_probe())
        else:
            self._agents.count_refused(refusal.status)
            self.send(local_response(refusal.status, refusal.reason, refusal.text, close=True))
        self._hang_up(linger=True)

    def _discard_queue(self) -> None:
        """Those behind the first have not begun, and will not."""
        while self._queue:
            self._queue.popleft().discard()

    def _hang_up(self, *, linger: bool) -> None:
        """Close; *linger*: read and drop for a while first, or the reset could overtake the answer."""
        self.flush()
        if self._transport is None or self._transport.is_closing():
            return
        if linger and self._transport.can_write_eof():
            self._linger_since = self._parts.loop.time()
            self._transport.write_eof()
            if self._read_paused:
                self._transport.resume_reading()
                self._read_paused = False
        else:
            self._transport.close()

    def _drop(self, data: bytes) -> None:
        self._dropped_bytes += len(data)
        if self._dropped_bytes > _MOST_DROPPED_BYTES:
            self.abort()
