"""The downstream side of the proxy: agent connections, each with one exchange at a time, and how they close."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import cast

from sidecar.gateway.proxy_buffer import WRITE_BUFFER_BYTES
from sidecar.gateway.proxy_exchange import Exchange
from sidecar.gateway.proxy_head import RequestHead, RequestRules
from sidecar.gateway.proxy_parts import ExchangeParts
from sidecar.gateway.proxy_refusal import PROBED, TOO_SLOW, RefusedError, local_response
from sidecar.gateway.proxy_requests import RequestReader

_MOST_DROPPED_BYTES = 64 * 2**20
_LINGER_S = 2.0
_HUNG_UP = getattr(select, "POLLRDHUP", 0)  # Linux; a reset (POLLERR, POLLHUP) is always told


class Agents:
    """The open agent connections, and counts of refused requests by status."""

    def __init__(self) -> None:
        self.connections: set[AgentConnection] = set()
        self.refused: dict[str, int] = {}
        self.closing = False
        self._quiet: asyncio.Event | None = None

    async def quiet(self) -> None:
        """Wait until no connection is left; with `closing` set each one closes after its running call."""
        self._quiet = asyncio.Event()
        if self.connections:
            await self._quiet.wait()

    def gone(self, connection: AgentConnection) -> None:
        """Remove *connection*, which is closed."""
        self.connections.discard(connection)
        if self._quiet is not None and not self.connections:
            self._quiet.set()

    def count_refused(self, status: int) -> None:
        """Count a request that the proxy itself refused with *status*; it is not observed."""
        key = str(status)
        self.refused[key] = self.refused.get(key, 0) + 1


class AgentConnection(asyncio.BufferedProtocol):
    """One agent connection. It is the AgentSide of its exchange and the RequestTaker of its reader."""

    def __init__(
        self, agents: Agents, rules: RequestRules, parts: ExchangeParts, on_probe: Callable[[], bytes]
    ) -> None:
        self._agents = agents
        self._parts = parts
        self._on_probe = on_probe
        self._reader = RequestReader(self, rules, parts.loop.time)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._out: list[bytes] = []
        self.write_paused = False
        self.read_paused = False
        self.active_at = parts.loop.time()
        self._closing: _Closing | None = None
        self._dropped_bytes = 0

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the new connection."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self._transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        self._agents.connections.add(self)

    def get_buffer(self, _sizehint: int) -> bytearray | memoryview:
        """The buffer shared by all connections: `buffer_updated` empties it before the next read."""
        return self._parts.buffer.room

    def buffer_updated(self, nbytes: int) -> None:
        """Parse what was read, and forward it."""
        self.active_at = self._parts.loop.time()
        if self._closing is not None:
            self._drop(nbytes)
            return
        self._reader.feed(self._parts.buffer.data, nbytes)
        self._pump()

    def connection_lost(self, _exc: Exception | None) -> None:
        """The agent disconnected: abandon its exchange."""
        self._agents.gone(self)
        self._transport = None
        self._pause_writing(False)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.agent_lost()
        self._reader.close()

    def pause_writing(self) -> None:
        """The agent reads slowly: pause reading from the gateway."""
        self._pause_writing(True)
        if self._exchange is not None:
            self._exchange.agent_paused(True)

    def resume_writing(self) -> None:
        """The agent has caught up: resume reading from the gateway."""
        self._pause_writing(False)
        self.active_at = self._parts.loop.time()
        if self._exchange is not None:
            self._exchange.agent_paused(False)

    # -- for the exchange: an AgentSide

    def send(self, *parts: bytes) -> None:
        """Queue *parts*; `flush` writes them."""
        self._out += parts

    def flush(self) -> None:
        """Write what is queued to the transport."""
        if self._out:
            out, self._out = self._out, []
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(b"".join(out))

    def regulate(self) -> None:
        """Pause reading from the agent while pipelined requests or unsent body bytes pile up; else resume."""
        transport = self._transport
        if transport is None or self._closing is not None or transport.is_closing():
            return
        wanted = self._reader.full or (self._exchange is not None and self._exchange.full)
        if wanted and not self.read_paused:
            transport.pause_reading()
        elif self.read_paused and not wanted:
            transport.resume_reading()
        self.read_paused = wanted

    def exchange_over(self, *, close: bool) -> None:
        """The response is complete: go on with the next request, or close."""
        done, self._exchange = self._exchange, None
        self.active_at = self._parts.loop.time()
        if close or self._agents.closing:
            self._hang_up(linger=done is None or not done.request_whole)
            return
        if done is not None and done.request_whole:  # otherwise the rest of the request is discarded first
            self._reader.next()
        self._pump()

    def cut_off(self, *, abruptly: bool) -> None:
        """The response stays incomplete: close, so that the agent notices."""
        self._exchange = None
        if abruptly:
            self.abort()
        else:
            self._hang_up(linger=False)

    # -- for the reader: a RequestTaker

    def request_head(self, head: RequestHead) -> None:
        """Start an exchange for the new request."""
        self._dropped_bytes = 0
        self._exchange = Exchange(self, head, self._parts)
        self._exchange.begin()

    def request_data(self, data: bytes) -> None:
        """Forward a piece of the body, or discard it if the exchange is already over."""
        if self._exchange is not None:
            self._exchange.request_data(data)
        else:
            self._drop(len(data))

    def request_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The request is complete."""
        if self._exchange is not None:
            self._exchange.request_end(trailers)
        else:
            self._reader.next()

    def refused(self, refusal: RefusedError) -> None:
        """Answer with *refusal* and close: the bytes that follow cannot be trusted to be a request."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:  # the malformed bytes are in its request body
            exchange.agent_broke()
        if self._reader.in_body and (exchange is None or exchange.head_sent):  # its response has begun or is over
            self.cut_off(abruptly=False)
            return
        if refusal is PROBED:
            self.send(self._on_probe())
        else:
            self._agents.count_refused(refusal.status)
            self.send(local_response(refusal.status, refusal.reason, refusal.text, close=True))
        self._hang_up(linger=True)

    # -- for the proxy

    @property
    def waiting_bytes(self) -> int:
        """Bytes in the transport's write buffer."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def sweep(self, now: float) -> None:
        """Enforce the time limits; *now* is the loop's time."""
        limits = self._parts.limits
        head_since = self._reader.head_since
        if self._closing is not None:
            if self._transport is not None and self._closing.is_late(now, self.waiting_bytes):
                self.abort()
        elif self.read_paused and self._transport is not None and has_hung_up(self._transport):
            self.abort()
        elif self._exchange is not None:
            self._exchange.sweep(now)
        elif head_since is not None:
            if now - head_since > limits.head_s:
                self.refused(TOO_SLOW)
        elif now - self.active_at > limits.keep_alive_s:
            self._hang_up(linger=False)

    def close_if_idle(self) -> None:
        """The proxy is stopping: close unless a call is running."""
        if self._exchange is None:
            self._hang_up(linger=False)

    def abort(self) -> None:
        """Close at once; unsent bytes are lost."""
        if self._transport is not None:
            self._transport.abort()

    # -- inside

    def _pause_writing(self, paused: bool) -> None:
        self._parts.buffer.stalled += paused - self.write_paused
        self.write_paused = paused

    def _pump(self) -> None:
        """After a read: write the results in both directions."""
        self.flush()
        if self._exchange is not None:
            self._exchange.send_on()
        self.regulate()

    def _hang_up(self, *, linger: bool) -> None:
        """Close. *linger*: half-close and discard input for a while first, as a TCP reset could overtake the answer."""
        self.flush()
        self._reader.close()
        transport = self._transport
        if transport is None or transport.is_closing() or self._closing is not None:
            return
        limits = self._parts.limits
        self._closing = _Closing(self._parts.loop.time(), limits.head_s, limits.idle_s)
        if linger and transport.can_write_eof():
            try:
                transport.write_eof()
            except OSError:  # reset by the agent; the loop has not noticed yet
                transport.abort()
            if self.read_paused:
                transport.resume_reading()
                self.read_paused = False
        else:
            transport.close()

    def _drop(self, count: int) -> None:
        self._dropped_bytes += count
        if self._dropped_bytes > _MOST_DROPPED_BYTES:
            self.abort()


def has_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its end, as the kernel knows; the loop learns of it only when it reads.

    Unread bytes do not hide the end, except those that do not fit into the kernel's buffer.
    """
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), _HUNG_UP)
    return bool(poll.poll(0))


class _Closing:
    """Times out a closing connection: *stalled_s* without progress, `_LINGER_S` once all is sent, *most_s* in all."""

    def __init__(self, now: float, stalled_s: float, most_s: float) -> None:
        self._since = self._progress_at = now
        self._stalled_s, self._most_s = stalled_s, most_s
        self._left: int | None = None

    def is_late(self, now: float, left: int) -> bool:
        """Whether a limit is exceeded; *left* are the bytes still in the write buffer."""
        if self._left is None or left < self._left:
            self._left, self._progress_at = left, now
        most_s = self._stalled_s if left else min(_LINGER_S, self._stalled_s)
        return now - self._progress_at > most_s or now - self._since > self._most_s
