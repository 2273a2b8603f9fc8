"""Evidence: the spans that an incident, a diagnosis or a playbook entry rests on, and links to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from opentelemetry.trace import Link

from sidecar.model import ObservedOp, SpanRef
from sidecar.spans.op_span import link_to

MAX_LINKS: Final = 100  # the provider keeps 128 of a span


def span_ref(op: ObservedOp) -> SpanRef | None:
    """The span that *op* is, where it has one."""
    return (op.trace_id, op.span_id) if op.trace_id and op.span_id else None


def links_to(refs: Iterable[SpanRef]) -> list[Link]:
    """Links to *refs*, each once, at most `MAX_LINKS`; what is no span id is left out."""
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
