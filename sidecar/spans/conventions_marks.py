"""Tells from raw bytes whether a span, or a scope of spans, may contain an operation: far cheaper than to read it."""

from __future__ import annotations

from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from sidecar.spans import conventions_table as table
from sidecar.spans.attributes import OP_ID


def _mark(key: str) -> bytes:
    """The bytes of an attribute's *key* in a serialised span: tag, length, the key, and the tag of the value."""
    return b"\x0a" + bytes([len(key)]) + key.encode() + b"\x12"


_MARKS = (*map(_mark, (*table.KINDS, OP_ID, "url.full", "http.url")), table.EVALUATION_EVENT.encode())
"""Every span that is an operation contains at least one of these."""


def is_marked(message: ScopeSpans | Span) -> bool:
    """Whether a deciding key occurs in the serialised bytes: much cheaper than reading all attributes."""
    data = message.SerializeToString()
    for mark in _MARKS:  # noqa: SIM110 - a generator for `any` takes longer than the search
        if mark in data:
            return True
    return False
