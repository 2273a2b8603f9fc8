"""Which received spans leave, where not all shall: a share of the traces, and every trace with a failure in it.

From `receivers.otlp_receiver`, which learns from all of them, to the spool. A trace's share is told by its id, so all
observers choose alike. Spans of the others are held for a while: a failure may come after its siblings.
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
_MOST_FAILED = 20_000
_LOW_64 = 2**64 - 1
M = TypeVar("M", bound=Message)


class _Held:
    """What waits of one trace. A request is a concatenation of requests, so pieces are kept as bytes."""

    __slots__ = ("data", "since", "spans")

    def __init__(self, since: float) -> None:
        self.since = since
        self.data: list[bytes] = []
        self.spans = 0


class TailSampling:
    """An `ExportSampling`: *success_ratio* of the traces, and those with failures within the window.

    The window is `WINDOW_S` seconds from a trace's first held span and 8 MiB over all traces; failed traces are known
    for as long, the last 20,000 of them. `sampled_out` counts the spans that did not leave. What is held is in memory
    only: a crash loses it for the export, as sampling out does; the journal has what was learnt.
    """

    def __init__(self, success_ratio: float, clock: Clock) -> None:
        self._bound = round(success_ratio * 2**64)
        self._clock = clock
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._held_bytes = 0
        self._failed: OrderedDict[bytes, float] = OrderedDict()
        self.sampled_out = 0

    def kept(self, piece: ResourceSpans, failed: frozenset[bytes]) -> tuple[bytes, int]:
        """What of *piece* leaves now, and what was held of traces that turn out to have failed."""
        now = self._clock.monotonic()
        self._let_go(now)
        out: list[bytes] = []
        spans = 0
        for trace_id in failed:
            self._failed[trace_id] = now
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
        while self._failed and (len(self._failed) > _MOST_FAILED or now - next(iter(self._failed.values())) > WINDOW_S):
            self._failed.popitem(last=False)

    def _drop_oldest(self) -> None:
        _, held = self._held.popitem(last=False)
        self._held_bytes -= sum(map(len, held.data))
        self.sampled_out += held.spans


def _by_decision(piece: ResourceSpans, leaves: Callable[[bytes], bool]) -> dict[bytes, tuple[bytes, int]]:
    """*piece* as requests: under b"" the spans of the traces that leave, and of each other trace its own."""
    decided: dict[bytes, bytes] = {}
    parts: defaultdict[bytes, ExportTraceServiceRequest] = defaultdict(ExportTraceServiceRequest)
    counts: Counter[bytes] = Counter()
    resource_head = _without(piece, "scope_spans")
    for scope_spans in piece.scope_spans:
        scope_head = _without(scope_spans, "spans")
        opened: dict[bytes, ScopeSpans] = {}  # by part: this scope in it
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
    """A copy of *message* without its *children*, unknown fields included."""
    copy: M = type(message)()
    copy.CopyFrom(message)
    copy.ClearField(children)
    return copy
