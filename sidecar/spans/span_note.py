"""The note beside an op in the journal: what the op does not tell about its span, for export to rebuild the span."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanKind, TraceFlags

from sidecar.model import ObservedOp
from sidecar.spans.op_span import OpSpan, op_attributes, op_status, op_times_ns

_INTERNAL = SpanKind.INTERNAL.value


class LinkNote(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A link of a journalled span. Ids are lower-case hex; *local*: the linked span belongs to this process."""

    trace_id: str
    span_id: str
    local: bool = False
    attributes: dict[str, Any] | None = None


class SpanNote(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a journal line's op does not tell about its span: the line's `span` member, absent if there is nothing.

    *kind* is the value of the API's `SpanKind`. *status* is code and message, times are ns since the epoch; each is
    set only where it differs from what the op implies. *attributes* are those not derived from the op.
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
"""The note of a span that is fully described by its op; a journal line without a note means this."""


_UNSAMPLED: Final = msgspec.json.encode(SpanNote(unsampled=True))

UNSAMPLED_MARK: Final = b',"span":{"unsampled":true'
"""Occurs in a journal line if and only if its span is unsampled: texts escape quotes, and no op field has objects."""


class JournalledOp(ObservedOp, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A line of `ops.jsonl` as the export reads it: an op, and the note on its span."""

    span: SpanNote | None = None


def span_note(span: ReadableSpan, op: ObservedOp) -> bytes:
    """The `SpanNote` of the ended *span* of *op*, as a JSON object; b"" if the op tells everything."""
    context = span.context
    if context is None:
        return b""
    if isinstance(span, OpSpan) and span.is_plain:
        return b"" if context.trace_flags & TraceFlags.SAMPLED else _UNSAMPLED
    parent = span.parent
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
    """The times, status and attributes of a live *span* that differ from the op's."""
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
