"""op ⇄ span: the attributes that mirror an `ObservedOp`, and the op that a span's attributes say.

The way back needs attributes and ids only, so it serves ended spans of the SDK and spans read from OTLP alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, Self

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes

from sidecar.model import ObservedOp, Scalar, SpanRef
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
_INTERNAL = SpanKind.INTERNAL.value
field_values = attrgetter(*KEY_FIELDS.values())
"""What an op says in each of them, None where it does not."""
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)


class LinkNote(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A link of a journalled span. Ids are lower-case hex; *local* says that the linked span is of this process."""

    trace_id: str
    span_id: str
    local: bool = False
    attributes: dict[str, Any] | None = None


class SpanNote(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an op does not say of its span, in a journal line's `span` member; none for a posted event's.

    *kind* counts as the API's `SpanKind`; *status* is code and message, times are ns since the epoch: each is there
    where it differs from the op's. *attributes* are those beside the op's own.
    """

    unsampled: bool = False
    name: str | None = None
    kind: int = _INTERNAL
    local_parent: bool = False
    tracestate: str = ""
    start_ns: int | None = None
    end_ns: int | None = None
    status: tuple[int, str | None] | None = None
    attributes: dict[str, Any] | None = None
    links: list[LinkNote] | None = None


PLAIN = SpanNote()
"""The note of a span that says nothing but its op, as lines without a note mean it."""


_UNSAMPLED: Final = msgspec.json.encode(SpanNote(unsampled=True))

UNSAMPLED_MARK: Final = b',"span":{"unsampled":true'
"""Stands in a journal line if its span is not sampled: in a text the quotes are escaped, and no field holds objects."""


class JournalledOp(ObservedOp, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A line of `ops.jsonl` as the export reads it: an op, and the note on its span."""

    span: SpanNote | None = None


def span_note(span: ReadableSpan, op: ObservedOp) -> bytes:
    """What *op* does not say of the ended *span*, as a JSON object; b"" if the op says all."""
    context, parent = span.context, span.parent
    if context is None:
        return b""
    if type(span) is OpSpan and not span.links and not context.trace_state and (parent is None or parent.is_remote):
        return b"" if context.trace_flags & TraceFlags.SAMPLED else _UNSAMPLED
    note = SpanNote(
        unsampled=not context.trace_flags & TraceFlags.SAMPLED,
        name=span.name if span.name != op.endpoint else None,
        kind=span.kind.value,
        local_parent=parent is not None and not parent.is_remote,
        tracestate=",".join(f"{key}={value}" for key, value in context.trace_state.items()),
        links=[_link_note(link) for link in span.links] or None,
        **(span.differing(op) if isinstance(span, OpSpan) else _differing(span, op)),
    )
    return msgspec.json.encode(note) if note != PLAIN else b""


def _differing(span: ReadableSpan, op: ObservedOp) -> dict[str, Any]:
    """Times, status and attributes of a live *span*, where the op's are others."""
    start, end = op_times_ns(op)
    said, own = op_status(op), span.status
    mirrored = op_attributes(op)
    beside = {
        key: value
        for key, value in dict(span.attributes or {}).items()
        if key not in mirrored or type(mirrored[key]) is not type(value) or mirrored[key] != value
    }
    same = (own.status_code, own.description) == (said.status_code, said.description)
    return {
        "start_ns": span.start_time if span.start_time != start else None,
        "end_ns": span.end_time if span.end_time != end else None,
        "status": None if same else (own.status_code.value, own.description),
        "attributes": beside or None,
    }


def _link_note(link: Link) -> LinkNote:
    context = link.context
    return LinkNote(
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        not context.is_remote,
        dict(link.attributes) if link.attributes else None,
    )


def op_attributes(op: ObservedOp) -> dict[str, Scalar]:
    """The attributes of *op*'s span; *op* must be in the normal form."""
    fields = zip(KEY_FIELDS, field_values(op), strict=True)
    return {**{key: value for key, value in fields if value is not None}, **dict(op_beside(op))}


def op_beside(op: ObservedOp) -> list[tuple[str, Scalar]]:
    """Those of them that are no fields of *op*: what is in its maps, and the standard ones."""
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
    """The op that *attributes* describe, or None if they are not those of an op.

    Ids are lower-case hex. Raises TypeError when a required field is missing.
    """
    if OP_ID not in attributes:
        return None
    fields: dict[str, Any] = {KEY_FIELDS[key]: value for key, value in attributes.items() if key in KEY_FIELDS}
    fields["trace_id"], fields["span_id"], fields["parent_span_id"] = trace_id, span_id, parent_span_id
    if len(fields) - 3 < len(attributes):  # the rest is maps, and standard attributes that are no part of the op
        fields["features"] = _under(FEATURES_PREFIX, attributes)
        fields["extra"] = _under(EXTRA_PREFIX, attributes)
    return ObservedOp(**fields)


def _under(prefix: str, attributes: Mapping[str, Any]) -> dict[str, Scalar] | None:
    """The attributes whose keys begin with *prefix*, without it; None if there are none."""
    cut = len(prefix)
    return {key[cut:]: value for key, value in attributes.items() if key.startswith(prefix)} or None


def op_from_span(span: ReadableSpan) -> ObservedOp | None:
    """The op that an ended *span* is, or None if it is not one."""
    if isinstance(span, OpSpan):
        return span.op
    attributes = dict(span.attributes or {})  # the SDK's own mapping takes five times as long to go through
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
    """(start, end) of *op* in ns since the epoch, kept within what OTLP's fixed64 can say."""
    end = _epoch_ns(op.timestamp)
    # A float near 1e308 times a million is inf, which int() refuses: bound it first.
    start = end - int(max(0.0, min(op.duration_ms * 1_000_000, float(_MAX_TIME_NS))))
    return max(0, start), end


@lru_cache(maxsize=256)  # under load many ops end in one millisecond
def _epoch_ns(timestamp: str) -> int:
    seconds = datetime.fromisoformat(timestamp).timestamp()
    return min(max(0, round(seconds * 1000) * 1_000_000), _MAX_TIME_NS)


def span_context(trace_id: str, span_id: str) -> SpanContext:
    """The remote span with these ids (hex), taken as sampled."""
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=_SAMPLED)


def placed(op: ObservedOp, context: SpanContext, parent: SpanContext | None) -> ObservedOp:
    """*op* with the ids of the span that it becomes."""
    return msgspec.structs.replace(
        op,
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_span_id=f"{parent.span_id:016x}" if parent is not None else None,
    )


def link_to(ref: SpanRef) -> Link:
    """A link to the span that *ref* names: how evidence is attached."""
    return Link(span_context(*ref))


class OpSpan(ReadableSpan):
    """An ended span built from a finished op at once, ten times faster than starting and ending one.

    *op* is what the span mirrors, with the span's own ids; attributes and times are made of it when asked for, which
    exporters do. *receipt* is set by the processor that took the op; it stays None when the op was not taken.
    *seen_as* is how the operation was seen, where the op itself does not tell.
    """

    made_as = SpanKind.INTERNAL  # nothing of ours made the call
    awaited = True  # somebody waits for the receipt
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
        """The span of *op*, which has their ids (`placed`)."""
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
        return span

    @property
    def attributes(self) -> Attributes:
        """Those that mirror the op."""
        return op_attributes(self.op)

    @property
    def start_time(self) -> int | None:
        """In ns since the epoch."""
        return op_times_ns(self.op)[0]

    @property
    def end_time(self) -> int | None:
        """In ns since the epoch."""
        return op_times_ns(self.op)[1]

    def differing(self, op: ObservedOp) -> dict[str, Any]:  # noqa: ARG002 - calls look at it
        """What of its times and attributes *op*, journalled in the place of its own, does not say: a note's members."""
        return {}


class CallSpan(OpSpan):
    """The ended span of a call that went through us. *beside* are its attributes beside the op's; *times* are in ns."""

    made_as = SpanKind.CLIENT
    awaited = False  # a call waits for no journal
    beside: Mapping[str, Any]
    times: tuple[int, int]

    @property
    def attributes(self) -> Attributes:
        """Those that mirror the op, and those beside them."""
        return {**self.beside, **op_attributes(self.op)}

    @property
    def start_time(self) -> int | None:
        """In ns since the epoch."""
        return self.times[0]

    @property
    def end_time(self) -> int | None:
        """In ns since the epoch."""
        return self.times[1]

    def differing(self, op: ObservedOp) -> dict[str, Any]:
        """Times to the ns, and what stands beside the op."""
        (start, end), (said_start, said_end) = self.times, op_times_ns(op)
        return {
            "start_ns": start if start != said_start else None,
            "end_ns": end if end != said_end else None,
            "attributes": self.beside or None,
        }
