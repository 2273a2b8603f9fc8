"""Forwards one request and its response between an agent connection and a gateway connection, both streamed.

Back-pressure: only bytes that the slower side has not taken are held, and meanwhile the faster side is not read.
The call is recorded while bytes pass (`ProxiedCall`) and evaluated after the last one.
"""

from __future__ import annotations

import asyncio

from sidecar.gateway.proxied_call import ProxiedCall
from sidecar.gateway.proxy_advice import AskedAdvice
from sidecar.gateway.proxy_framing import AnswerFraming, OutgoingRequest
from sidecar.gateway.proxy_head import RequestHead, ResponseHead
from sidecar.gateway.proxy_parts import AgentSide, ExchangeParts
from sidecar.gateway.proxy_refusal import TRACE_ID_HEADER, local_response
from sidecar.gateway.proxy_upstream import UpstreamConnection

_REPEATABLE = frozenset([b"GET", b"HEAD", b"OPTIONS", b"TRACE"])
_HUNG_UP = "cancelled by the caller"


class Exchange:
    """Forwards the pieces of one request to the gateway, and of its response to the agent."""

    __slots__ = (
        "_agent",
        "_asked",
        "_connecting",
        "_connection",
        "_continued",
        "_framing",
        "_head_sent",
        "_heard_at",
        "_outgoing",
        "_parts",
        "_response_whole",
        "_retried",
        "_sent_at",
        "_upstream_paused",
        "call",
        "head",
        "method",
        "over",
        "request_whole",
    )

    def __init__(self, agent: AgentSide, head: RequestHead, parts: ExchangeParts) -> None:
        self._agent = agent
        self._parts = parts
        self.head = head
        self.method = head.method
        self.call: ProxiedCall = parts.recorder.begin(head)
        self._connection: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._outgoing = OutgoingRequest(head)
        self._upstream_paused = False
        self._head_sent = False
        self._framing = AnswerFraming(head)
        self._response_whole = False
        self._retried = False
        self._continued = False
        self._asked: AskedAdvice | None = None
        self.request_whole = False
        self.over = False
        self._sent_at = self._heard_at = parts.loop.time()

    # -- from the agent

    def begin(self) -> None:
        """Queue the head and get a connection. The agent side then calls `send_on`, which writes head and body."""
        self._heard_at = self._sent_at = self._parts.loop.time()
        lines, advice = self._parts.recorder.start(self.call), self._parts.advice
        if advice is None:
            self._send_head(lines)
            return
        self._asked = asked = AskedAdvice(advice, self.call, self._parts.loop)
        if self.request_whole:
            asked.request_over()
        if advice.to_gateway:
            asked.when_over(lambda: self._send_advised_head([*lines, *asked.lines()]))
        else:
            self._send_head(lines)

    def request_data(self, data: bytes) -> None:
        """Queue a piece of the request body."""
        if self._response_whole or self.over:
            return  # the gateway answered without waiting for it
        self.call.request_body.add(data)
        self._outgoing.add(data)

    def request_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The request is complete."""
        self.request_whole = True
        if self._asked is not None:
            self._asked.request_over()
        self._sent_at = self._parts.loop.time()
        self._outgoing.end(trailers)

    def send_on(self) -> None:
        """Write the queued bytes to the gateway, if there is a connection."""
        self._outgoing.send_on(self._connection.transport if self._connection is not None else None)

    @property
    def full(self) -> bool:
        """Whether to stop reading from the agent: the gateway has not taken the queued bytes."""
        return self._upstream_paused or self._outgoing.full

    def agent_paused(self, paused: bool) -> None:
        """Pause reading from the gateway while the agent reads slowly; resume once it has caught up."""
        connection = self._connection
        if connection is not None and connection.transport is not None and not connection.transport.is_closing():
            if paused:
                connection.transport.pause_reading()
            else:
                connection.transport.resume_reading()

    def agent_lost(self) -> None:
        """The agent disconnected: abort the gateway connection, so that the gateway can stop."""
        if not self.over:
            self.call.hung_up = True
            self.call.failed(_HUNG_UP, "CancelledError")
            self._drop_connection()
            self._finish()

    def agent_broke(self) -> None:
        """The agent sent malformed HTTP: abort, so that the gateway does not take the rest for a request."""
        if not self.over:
            self.call.failed("the request was malformed", "RemoteProtocolError")
            self._drop_connection()
            self._finish()

    @property
    def head_sent(self) -> bool:
        """Whether a response head was sent to the agent."""
        return self._head_sent

    def sweep(self, now: float) -> None:
        """Fail the call if it exceeds a time limit; *now* is the loop's time."""
        limits = self._parts.limits
        if self._connection is None:
            return  # connecting has a time-out of its own
        if self.request_whole and not self._head_sent and now - self._sent_at > limits.first_byte_s:
            self._timed_out(f"the gateway gave no answer in {limits.first_byte_s:g} s")
        elif now - max(self._agent.active_at, self._heard_at) > limits.idle_s:
            self._timed_out(f"no data was transferred for {limits.idle_s:g} s")

    # -- from the gateway: a ResponseTaker

    def interim(self, head: ResponseHead) -> None:
        """Forward a 1xx response, but not to an HTTP/1.0 agent."""
        self._sent_at = self._heard_at = self._parts.loop.time()
        self._continued = self._continued or head.status == 100
        if not self.head.http10:
            self._agent.send(head.to_send(()))

    def response_head(self, head: ResponseHead, *, until_close: bool) -> None:
        """Forward the head with our headers; a body without a length is sent chunked."""
        self._parts.recorder.answered(self.call, head)
        trace_id = self._trace_id()
        more = [b"%b: %032x" % (TRACE_ID_HEADER, trace_id)] if trace_id else []
        if self._asked is not None and self._asked.to_agent:
            more += self._asked.lines()
        may_continue = self.head.expects and not self._continued and not self.request_whole
        more += self._framing.lines(head, until_close=until_close, may_continue=may_continue)
        self._head_sent = True
        self._agent.send(head.to_send(more))

    def response_data(self, data: bytes) -> None:
        """Forward a piece of the body."""
        self.call.response_body.add(data)
        self._agent.send(*self._framing.piece(data))

    def response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The response is complete."""
        self._response_whole = True
        self._agent.send(*self._framing.end(trailers))

    def after_data(self) -> None:
        """Write what one read produced; once the response is complete, release the connection."""
        self._heard_at = self._parts.loop.time()
        if self.over:
            return
        self._agent.flush()
        if self._response_whole:
            if self._agent.write_paused:
                self.agent_paused(False)  # for the connection's next exchange
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.settle(request_whole=self.request_whole)
            self._finish()
            self._agent.exchange_over(close=self.head.close)

    def upstream_lost(self, why: str, error_type: str) -> None:
        """The gateway connection broke before the response was complete: retry once if that is safe, else fail."""
        connection, self._connection = self._connection, None
        if self.over or self._response_whole:
            return
        stale = connection is not None and connection.reused and not connection.heard
        if stale and not self._retried and not self.head.has_body and self.method in _REPEATABLE:
            self._retried = True  # closed while idle: the gateway processed nothing of this request
            lines = self._parts.recorder.trace_lines(self.call)
            if self._asked is not None and self._asked.to_gateway:
                lines = [*lines, *self._asked.lines()]
            self._outgoing.clear()
            self._outgoing.put_head(lines)
            self._connecting = self._parts.loop.create_task(self._connect())
        else:
            self._fail(502, "Bad Gateway", f"no answer from the gateway: {why}", error_type)

    def upstream_paused(self, paused: bool) -> None:
        """Pause reading from the agent while the gateway reads slowly; resume once it has caught up."""
        self._upstream_paused = paused
        self._heard_at = self._parts.loop.time()
        self._agent.regulate()

    # -- inside

    def _send_head(self, lines: list[bytes]) -> None:
        """Queue the head with *lines*, before the body bytes received so far, and get a connection."""
        if self.over:
            return
        self._outgoing.put_head(lines)
        connection = self._parts.pool.take()
        if connection is not None:
            self._attach(connection)
        else:
            self._connecting = self._parts.loop.create_task(self._connect())

    def _send_advised_head(self, lines: list[bytes]) -> None:
        self._send_head(lines)
        self.send_on()  # no further body bytes may come to trigger it
        self._agent.regulate()

    async def _connect(self) -> None:
        try:
            connection = await self._parts.pool.connect()
        except TimeoutError:
            self._timed_out("the gateway cannot be reached: no connection in time")
        except OSError as exc:
            self._fail(502, "Bad Gateway", f"the gateway cannot be reached: {exc.strerror or exc}", "ConnectError")
        else:
            self._attach(connection)
            self.send_on()
            self._agent.regulate()
        finally:
            if self._connecting is asyncio.current_task():
                self._connecting = None

    def _attach(self, connection: UpstreamConnection) -> None:
        if self.over or connection.transport is None or connection.transport.is_closing():
            connection.abort()
            self.upstream_lost("it closed the connection", "RemoteProtocolError")
            return
        self._connection = connection
        connection.carry(self)
        if self._agent.write_paused:
            self.agent_paused(True)

    def _timed_out(self, error: str) -> None:
        self._fail(504, "Gateway Timeout", error, TimeoutError.__name__)

    def _fail(self, status: int, reason: str, error: str, error_type: str) -> None:
        """End the call as failed: answer with *status*, or cut off a response that has begun."""
        if self.over:
            return
        self.call.failed(error, error_type)
        self._drop_connection()
        if self._head_sent:
            framed = self._framing.chunked or (self.call.response is not None and self.call.response.length is not None)
            self._finish()
            self._agent.cut_off(abruptly=not framed)
            return
        close = self.head.close or not self.request_whole
        self._agent.send(
            local_response(status, reason, error, close=close, trace_id=self._trace_id(), method=self.method)
        )
        self._agent.flush()
        self._head_sent = True
        self._finish()
        self._agent.exchange_over(close=close)

    def _trace_id(self) -> int:
        return self._parts.recorder.trace_id(self.call)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self._connecting is not None and self._connecting is not asyncio.current_task():
            self._connecting.cancel()

    def _finish(self) -> None:
        if not self.over:
            self.over = True
            self._outgoing.clear()
            if self._asked is not None:
                self._asked.request_over()
            self._parts.recorder.ended(self.call)
