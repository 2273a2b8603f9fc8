"""Tail sampling of received spans: exports a share of the traces, and every trace that contains a failure.

Sits between `receivers.otlp_receiver`, which learns from all spans, and the spool. The trace id decides the share, so
all observers choose the same traces. Other spans are held for a while: a failure may arrive after its siblings.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans

from sidecar.protocols import Clock

WINDOW_S = 30.0
_HELD_BYTES = 8 * 2**20
MOST_FAILED = 20_000
_LOW_64 = 2**64 - 1
M = TypeVar("M", bound=Message)


class _Held:
    """The held spans of one trace, as serialised requests: concatenated requests are again one request."""

    __slots__ = ("data", "since", "spans")

    def __init__(self, since: float) -> None:
        self.since = since
        self.data: list[bytes] = []
        self.spans = 0


class TailSampling:
    """An `ExportSampling`: exports *success_ratio* of the traces, and traces with a failure within the window.

    The window is `WINDOW_S` seconds from a trace's first held span, and 8 MiB over all traces. The last 20,000 traces
    that failed are remembered: an agent's root span may come long after. `sampled_out` counts unexported spans.
    Held spans are in memory only: a crash drops them from export, as sampling does; the journal has their ops.
    """

    def __init__(self, success_ratio: float, clock: Clock) -> None:
        self._bound = round(success_ratio * 2**64)
        self._clock = clock
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._held_bytes = 0
        self._failed: OrderedDict[bytes, None] = OrderedDict()  # the last failed one last
        self.sampled_out = 0

    def kept(self, piece: ResourceSpans, failed: frozenset[bytes]) -> tuple[bytes, int]:
        """The part of *piece* to export now, with the spans held so far of its failed traces, and the span count."""
        now = self._clock.monotonic()
        self._let_go(now)
        out: list[bytes] = []
        spans = 0
        for trace_id in failed:
            self._failed[trace_id] = None
            self._failed.move_to_end(trace_id)
            if (held := self._held.pop(trace_id, None)) is not None:
                self._held_bytes -= sum(map(len, held.data))
                out += held.data
                spans += held.spans
        for trace_id, (data, count) in _by_decision(piece, self._leaves).items():
            if not trace_id:
                out.append(data)
                spans += count
            else:
                self._hold(trace_id, data, count, now)
        return b"".join(out), spans

    def _leaves(self, trace_id: bytes) -> bool:
        # The rule of the SDK's TraceIdRatioBased, so that both choose the same traces.
        return int.from_bytes(trace_id, "big") & _LOW_64 < self._bound or trace_id in self._failed

    def _hold(self, trace_id: bytes, data: bytes, spans: int, now: float) -> None:
        held = self._held.setdefault(trace_id, _Held(now))
        held.data.append(data)
        held.spans += spans
        self._held_bytes += len(data)
        while self._held_bytes > _HELD_BYTES:
            self._drop_oldest()

    def _let_go(self, now: float) -> None:
        while self._held and now - next(iter(self._held.values())).since > WINDOW_S:
            self._drop_oldest()
        while len(self._failed) > MOST_FAILED:
            self._failed.popitem(last=False)

    def _drop_oldest(self) -> None:
        _, held = self._held.popitem(last=False)
        self._held_bytes -= sum(map(len, held.data))
        self.sampled_out += held.spans


def _by_decision(piece: ResourceSpans, leaves: Callable[[bytes], bool]) -> dict[bytes, tuple[bytes, int]]:
    """Split *piece* into requests: key b"" has the spans to export, each other key the spans of one trace to hold."""
    decided: dict[bytes, bytes] = {}
    parts: defaultdict[bytes, ExportTraceServiceRequest] = defaultdict(ExportTraceServiceRequest)
    counts: Counter[bytes] = Counter()
    resource_head = _without(piece, "scope_spans")
    for scope_spans in piece.scope_spans:
        scope_head = _without(scope_spans, "spans")
        opened: dict[bytes, ScopeSpans] = {}  # per part: its copy of this scope
        for span in scope_spans.spans:
            key = decided.get(span.trace_id)
            if key is None:
                key = decided[span.trace_id] = b"" if leaves(span.trace_id) else span.trace_id
            if key not in opened:
                part = parts[key]
                if not part.resource_spans:
                    part.resource_spans.append(resource_head)
                part.resource_spans[0].scope_spans.append(scope_head)
                opened[key] = part.resource_spans[0].scope_spans[-1]
            opened[key].spans.append(span)
            counts[key] += 1
    return {key: (part.SerializeToString(), counts[key]) for key, part in parts.items()}


def _without(message: M, children: str) -> M:
    """A copy of *message* without the field *children*; unknown fields are kept."""
    copy: M = type(message)()
    copy.CopyFrom(message)
    copy.ClearField(children)
    return copy
