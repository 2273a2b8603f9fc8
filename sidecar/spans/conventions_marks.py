"""Tells from raw bytes whether a span, or a scope of spans, may contain an operation: far cheaper than to read it."""

from __future__ import annotations

import re

from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from sidecar.spans import conventions_table as table
from sidecar.spans.attributes import OP_ID

_KEY = b"\x0a"  # the tag before an attribute's key in a serialised span


def _mark(key: str) -> bytes:
    """What follows `_KEY` for this *key*: its length, the key, and the tag of the value. A pattern."""
    return re.escape(bytes([len(key)]) + key.encode() + b"\x12")


# Patterns that begin with one literal byte: ten times as fast as a search with `in` for each key.
_KEYS = re.compile(_KEY + b"(?:" + b"|".join(map(_mark, (*table.KINDS, OP_ID, "url.full", "http.url"))) + b")")
_EVENT = re.compile(re.escape(table.EVALUATION_EVENT.encode()))


def is_marked(message: ScopeSpans | Span) -> bool:
    """Whether a deciding key occurs in the serialised bytes: much cheaper than reading all attributes.

    Every span that is an operation contains one, or an evaluation event.
    """
    data = message.SerializeToString()
    return _KEYS.search(data) is not None or _EVENT.search(data) is not None
