"""Records proxied calls as CLIENT spans, and thereby as ops, from the request's head to the last byte.

Nothing here may harm a call: every step that the agent waits for is bounded and guarded. An answer is parsed only
after it was forwarded. Faults are counted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import structlog
from opentelemetry.trace import SpanContext

from sidecar.clock import rfc3339_ms
from sidecar.gateway.call_facts import CallFacts, FactReader, plain_facts
from sidecar.gateway.proxied_call import CaptureBudget, ProxiedCall
from sidecar.gateway.proxy_advice import Asked
from sidecar.gateway.proxy_head import RequestHead, ResponseHead
from sidecar.gateway.route_template import Templates
from sidecar.gateway_address import GatewayAddress
from sidecar.ids import new_id
from sidecar.model import SCHEMA_VERSION, ObservedOp
from sidecar.normalize import Normalizer
from sidecar.protocols import CallSpans, Clock
from sidecar.spans import attributes as keys
from sidecar.spans.op_span import parent_from_headers

log = structlog.get_logger(__name__)

FIRST_BYTE_MS = "observer.proxy.first_byte_ms"
_MOST_URL = 2048  # characters; twice as many are masked before the cut, so that it splits no secret
_MOST_ERROR = 8192
_BEYOND_ERROR = 1024  # characters masked beyond the cut: half a secret is not recognised
_CAPTURED_BYTES = 8 * 2**20  # for all running calls: 64 long bodies, as agents that do not read hold theirs for long
_GATHER_S = 0.002  # delays making ops, so that an agent's next call need not wait for its last one's
_TURN_S = 0.001  # time slice for making ops: one call with long bodies takes a millisecond or two
_MOST_ENDED = 128  # ended calls that may wait for the next slice


class CallRecorder:
    """Starts and ends the spans of proxied calls to *gateway*."""

    def __init__(self, spans: CallSpans, normalizer: Normalizer, clock: Clock, gateway: GatewayAddress) -> None:
        self._spans = spans
        self._normalizer = normalizer
        self._clock = clock
        self._base = gateway._replace(path="").url
        self._server: dict[str, Any] = {keys.SERVER_ADDRESS: gateway.host, keys.SERVER_PORT: gateway.port}
        self._templates = Templates()
        self._facts = FactReader(normalizer, self._templates)
        self._url = lru_cache(maxsize=512)(self._masked_url)  # agents call few targets; masking one takes 15 µs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: deque[ProxiedCall] = deque()
        self.budget = CaptureBudget(_CAPTURED_BYTES)
        self.calls = 0
        self.failures = 0
        self.lost = 0  # calls without an op
        self.unread = 0  # ops with fewer facts, as parsing the call failed

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the event loop of the calls."""
        self._loop = loop

    def begin(self, head: RequestHead) -> ProxiedCall:
        """Start recording the request *head*."""
        return ProxiedCall(head, self.budget, self._clock.time_ns(), self._clock.monotonic())

    def start(self, call: ProxiedCall) -> list[bytes]:
        """Begin the span; return the header lines of its trace context for the gateway."""
        head = call.request
        try:
            call.template = self._templates.of(head.target)
            call.span = self._spans.begin(call.template, _parent(head))
        except Exception:  # the call goes on unobserved, with its own trace context
            log.exception("proxy.call_unobserved")
        return self.trace_lines(call)

    def trace_lines(self, call: ProxiedCall) -> list[bytes]:
        """`traceparent` of our span, `tracestate` if the agent's span is valid; both as received without a span."""
        head, span = call.request, call.span
        if span is None:
            return _lines(b"traceparent", head.traceparent) + _lines(b"tracestate", head.tracestate)
        context, parent = span
        line = b"traceparent: 00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)
        return [line, *_lines(b"tracestate", head.tracestate)] if parent is not None else [line]

    def asked(self, call: ProxiedCall) -> Asked:
        """What is known of *call* from its request, normalised as in its op."""
        return self._facts.asked(call)

    def trace_id(self, call: ProxiedCall) -> int:
        """The call's trace id; 0 if it has no span."""
        return call.span.context.trace_id if call.span is not None else 0

    def answered(self, call: ProxiedCall, head: ResponseHead) -> None:
        """Note the response's *head* and the time of its arrival."""
        call.first_byte = self._clock.monotonic()
        call.answered(head)

    def ended(self, call: ProxiedCall) -> None:
        """The call is over. Its op is made `_GATHER_S` later, together with those of other calls."""
        call.ended = self._clock.monotonic()
        self.calls += 1
        if self._loop is not None:
            self._ended.append(call)
            if len(self._ended) == 1:
                self._loop.call_later(_GATHER_S, self._record_some, self._loop)

    def record_ended(self) -> None:
        """Make the ops of all ended calls, in the order in which they ended."""
        while self._ended:
            self._record(self._ended.popleft())

    def _record_some(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make ops for `_TURN_S`, or longer if many calls wait, so that calls do not end faster than ops are made."""
        until = self._clock.monotonic() + _TURN_S
        while self._ended and (self._clock.monotonic() < until or self._is_behind):
            self._record(self._ended.popleft())
        if self._ended:
            loop.call_soon(self._record_some, loop)

    @property
    def _is_behind(self) -> bool:
        return len(self._ended) > _MOST_ENDED or self.budget.is_short

    def _record(self, call: ProxiedCall) -> None:
        try:
            facts = self._read(call)
            self.failures += facts.error is not None
            self._end(call, facts)
        except Exception:
            self.lost += 1
            log.exception("proxy.op_lost", template=call.template)
        finally:
            call.release()

    def _read(self, call: ProxiedCall) -> CallFacts:
        try:
            return self._facts.read(call)
        except Exception:
            self.unread += 1
            log.exception("proxy.call_not_read", template=call.template)
            return plain_facts(call)

    def _end(self, call: ProxiedCall, facts: CallFacts) -> None:
        span = call.span
        if span is None:
            self.lost += 1
            return
        elapsed_ns = round((call.ended - call.started) * 1e9)
        op = self._op(facts, call.started_ns + elapsed_ns, elapsed_ns, call.exposure_id)
        beside = {keys.HTTP_REQUEST_METHOD: call.request.method.decode("ascii"), **self._server}
        if facts.attributes:
            beside |= self._clean(facts.attributes)
        beside[keys.URL_FULL] = self._url(call.request.upstream_target[: _MOST_URL * 2])
        if call.response is not None:
            beside[keys.HTTP_RESPONSE_STATUS_CODE] = call.response.status
        if call.first_byte is not None:
            beside[FIRST_BYTE_MS] = round((call.first_byte - call.started) * 1000, 3)
        self._spans.end(span, op, (call.started_ns, call.started_ns + elapsed_ns), beside)

    def _clean(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Mask *attributes* like the op's own fields, as model and tool names come from bodies. Lists stay lists."""
        text = self._normalizer.text
        clean = dict(attributes)
        for key, value in attributes.items():
            if isinstance(value, str):
                clean[key] = text(value)
            elif isinstance(value, list):
                clean[key] = [*map(text, value)]
        return clean

    def _masked_url(self, target: bytes) -> str:
        return self._normalizer.text(self._base + target.decode("latin-1"))[:_MOST_URL]

    def _op(self, facts: CallFacts, ended_ns: int, elapsed_ns: int, exposure_id: str | None) -> ObservedOp:
        cut = self._normalizer.cut
        error = cut(facts.error[: _MOST_ERROR + _BEYOND_ERROR], _MOST_ERROR) if facts.error is not None else None
        fields = {
            "input_summary": facts.input_summary,
            "source": "mcp",
            "exposure_id": exposure_id,
            **facts.fields,
            "timestamp": rfc3339_ms(ended_ns),
            "endpoint": facts.endpoint,
            "success": error is None,
            "duration_ms": round(elapsed_ns / 1e6, 3),
            "output_summary": f"ERROR: {error}" if error is not None else facts.output_summary,
            "error": error,
            "error_type": facts.error_type,
            "features": facts.features or None,
            "extra": facts.extra or None,
            "v": SCHEMA_VERSION,
            "op_id": new_id(),
        }
        self._normalizer.fields(fields)
        return ObservedOp(**fields)


def _parent(head: RequestHead) -> SpanContext | None:
    """The agent's span; None if `traceparent` is missing, repeated or invalid. Source: W3C Trace Context."""
    if len(head.traceparent) != 1:
        return None
    traceparent, tracestate = head.traceparent[0].strip(), b",".join(head.tracestate)
    return parent_from_headers(traceparent.decode("latin-1"), tracestate.decode("latin-1"))


def _lines(name: bytes, values: Iterable[bytes]) -> list[bytes]:
    return [b"%b: %b" % (name, value) for value in values]
