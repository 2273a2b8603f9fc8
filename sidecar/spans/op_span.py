"""op ⇄ span: the attributes that mirror an `ObservedOp`, and the op read back from a span's attributes.

Reading back needs only attributes and ids, so it works for ended SDK spans and for spans read from OTLP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Self

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from sidecar.model import MOST_DURATION_MS, ObservedOp, Scalar, SpanRef
from sidecar.protocols import Receipt
from sidecar.spans.attributes import (
    ERROR_TYPE,
    ERROR_TYPE_OTHER,
    EXTRA_PREFIX,
    FEATURES_PREFIX,
    KEY_FIELDS,
    OP_ID,
)
from sidecar.spans.conventions_table import Kind

_MAX_TIME_NS = 2**64 - 1
_field_values = attrgetter(*KEY_FIELDS.values())
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_PROPAGATOR = TraceContextTextMapPropagator()
_UNSET = Status(StatusCode.UNSET)


def op_attributes(op: ObservedOp) -> dict[str, Scalar]:
    """The attributes of *op*'s span; *op* must be in the normal form."""
    fields = zip(KEY_FIELDS, _field_values(op), strict=True)
    return {**{key: value for key, value in fields if value is not None}, **dict(op_beside(op))}


def op_beside(op: ObservedOp) -> list[tuple[str, Scalar]]:
    """The attributes of *op*'s span that are not op fields: entries of its maps, and standard attributes."""
    beside: list[tuple[str, Scalar]] = []
    if op.features:
        beside += [(FEATURES_PREFIX + name, value) for name, value in op.features.items()]
    if op.extra:
        beside += [(EXTRA_PREFIX + name, value) for name, value in op.extra.items()]
    if not op.success:
        beside.append((ERROR_TYPE, op.error_type or ERROR_TYPE_OTHER))
    return beside


def op_from_attributes(
    attributes: Mapping[str, Any], trace_id: str, span_id: str, parent_span_id: str | None
) -> ObservedOp | None:
    """The op that *attributes* describe; None if they are not those of an op.

    Ids are lower-case hex. Raises TypeError if a required field is missing.
    """
    if OP_ID not in attributes:
        return None
    fields: dict[str, Any] = {KEY_FIELDS[key]: value for key, value in attributes.items() if key in KEY_FIELDS}
    fields["trace_id"], fields["span_id"], fields["parent_span_id"] = trace_id, span_id, parent_span_id
    if len(fields) - 3 < len(attributes):  # the rest: maps, and standard attributes, which the op does not contain
        fields["features"] = _under(FEATURES_PREFIX, attributes)
        fields["extra"] = _under(EXTRA_PREFIX, attributes)
    return ObservedOp(**fields)


def _under(prefix: str, attributes: Mapping[str, Any]) -> dict[str, Scalar] | None:
    """The attributes whose keys begin with *prefix*, with the prefix removed; None if there are none."""
    cut = len(prefix)
    return {key[cut:]: value for key, value in attributes.items() if key.startswith(prefix)} or None


def op_from_span(span: ReadableSpan) -> ObservedOp | None:
    """The op of an ended *span*; None if the span is not an op."""
    if isinstance(span, OpSpan):
        return span.op
    attributes = dict(span.attributes or {})  # iterating over the SDK's own mapping takes five times as long
    context = span.context
    if not attributes or context is None:
        return None
    parent = span.parent
    return op_from_attributes(
        attributes,
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        f"{parent.span_id:016x}" if parent is not None else None,
    )


def op_status(op: ObservedOp) -> Status:
    """Error with the message on failure, unset on success. Source: OTel conventions, recording errors."""
    return _UNSET if op.success else Status(StatusCode.ERROR, op.error or op.output_summary)


def op_times_ns(op: ObservedOp) -> tuple[int, int]:
    """(start, end) of *op* in ns since the epoch, clamped to OTLP's fixed64."""
    end, duration_ms = _epoch_ns(op.timestamp), op.duration_ms
    if duration_ms.__class__ is int and 0 <= duration_ms <= MOST_DURATION_MS:  # the usual case
        start = end - duration_ms * 1_000_000
    else:  # a float near 1e308 times a million is inf, which int() rejects: clamp first
        start = end - int(max(0.0, min(duration_ms * 1_000_000, float(_MAX_TIME_NS))))
    return max(0, start), end


@lru_cache(maxsize=256)  # under load many ops end in the same millisecond
def _epoch_ns(timestamp: str) -> int:
    seconds = datetime.fromisoformat(timestamp).timestamp()
    return min(max(0, round(seconds * 1000) * 1_000_000), _MAX_TIME_NS)


def span_context(trace_id: str, span_id: str) -> SpanContext:
    """A remote, sampled span context with these ids (hex)."""
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)


def parent_from_headers(traceparent: str, tracestate: str = "") -> SpanContext | None:
    """The caller's span; None if the header is invalid. Source: W3C Trace Context."""
    carrier = {"traceparent": traceparent, "tracestate": tracestate}
    context = get_current_span(_PROPAGATOR.extract(carrier, Context())).get_span_context()
    return context if context.is_valid else None


def placed(op: ObservedOp, context: SpanContext, parent: SpanContext | None) -> ObservedOp:
    """*op* with the ids of its span."""
    return msgspec.structs.replace(
        op,
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_span_id=f"{parent.span_id:016x}" if parent is not None else None,
    )


def link_to(ref: SpanRef) -> Link:
    """A link to the span *ref*, to attach evidence."""
    return Link(span_context(*ref))


class OpSpan(ReadableSpan):
    """An ended span built directly from a finished op, ten times faster than starting and ending one.

    *op* is the op that the span mirrors, with the span's ids; attributes and times are computed from it on access, as
    exporters do. *receipt* is set by the processor that took the op; None means that nothing took it. *seen_as* is
    the kind of witness, if the op itself does not tell. *is_plain*: the op tells everything, but for the sampled flag.
    """

    made_as = SpanKind.INTERNAL  # not a call made through us
    awaited = True  # a sender awaits the receipt
    is_plain = False
    receipt: Receipt | None = None
    seen_as: Kind | None = None
    op: ObservedOp

    @classmethod
    def of(
        cls,
        op: ObservedOp,
        context: SpanContext,
        parent: SpanContext | None,
        *,
        resource: Resource,
        scope: InstrumentationScope,
        links: Sequence[Link] = (),
    ) -> Self:
        """The span of *op*, which must have the ids of *context* and *parent* (`placed`)."""
        span = cls(
            name=op.endpoint,
            context=context,
            parent=parent,
            resource=resource,
            links=links,
            kind=cls.made_as,
            status=op_status(op),
            instrumentation_scope=scope,
        )
        span.op = op
        span.is_plain = cls is OpSpan and not links and not context.trace_state and (parent is None or parent.is_remote)
        return span

    @property
    def attributes(self) -> Attributes:
        """The attributes that mirror the op."""
        return op_attributes(self.op)

    @property
    def start_time(self) -> int | None:
        """Nanoseconds since the epoch."""
        return op_times_ns(self.op)[0]

    @property
    def end_time(self) -> int | None:
        """Nanoseconds since the epoch."""
        return op_times_ns(self.op)[1]

    def differing(self, op: ObservedOp) -> dict[str, Any]:  # noqa: ARG002 - `CallSpan` uses it
        """Members of the note: how times and attributes differ from those of *op*, which is journalled in its place."""
        return {}


class CallSpan(OpSpan):
    """The ended span of a call made through us. *beside*: its attributes that are not the op's; *times*: in ns."""

    made_as = SpanKind.CLIENT
    awaited = False  # calls never wait for the journal
    beside: Mapping[str, Any]
    times: tuple[int, int]

    @property
    def attributes(self) -> Attributes:
        """The attributes that mirror the op, plus *beside*."""
        return {**self.beside, **op_attributes(self.op)}

    @property
    def start_time(self) -> int | None:
        """Nanoseconds since the epoch."""
        return self.times[0]

    @property
    def end_time(self) -> int | None:
        """Nanoseconds since the epoch."""
        return self.times[1]

    def differing(self, op: ObservedOp) -> dict[str, Any]:
        """Times to the ns where they differ, and the attributes beside the op."""
        (start, end), (said_start, said_end) = self.times, op_times_ns(op)
        return {
            "start_ns": start if start != said_start else None,
            "end_ns": end if end != said_end else None,
            "attributes": self.beside or None,
        }
