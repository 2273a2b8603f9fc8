"""Evidence: the spans that support an incident, a diagnosis or a playbook entry, and span links to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from opentelemetry.trace import Link

from sidecar.model import ObservedOp, SpanRef
from sidecar.normalize import clean_text
from sidecar.spans.op_span import link_to

MAX_LINKS: Final = 100  # the provider keeps at most 128 links per span


def span_ref(op: ObservedOp) -> SpanRef | None:
    """The ids of *op*'s span; None unless they have the length of W3C Trace Context ids."""
    trace_id, span_id = op.trace_id, op.span_id
    if trace_id is None or span_id is None or len(trace_id) != 32 or len(span_id) != 16:
        return None
    return clean_text(trace_id), clean_text(span_id)


def links_to(refs: Iterable[SpanRef]) -> list[Link]:
    """Links to *refs* without duplicates, at most `MAX_LINKS`; invalid ids are skipped."""
    links: list[Link] = []
    for ref in dict.fromkeys(refs):
        if len(links) == MAX_LINKS:
            break
        try:
            link = link_to(ref)
        except ValueError:
            continue
        if link.context.is_valid:
            links.append(link)
    return links
