"""Builds OTLP requests for tests, and reads them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from sidecar.model import ObservedOp
from sidecar.spans.op_span import op_attributes
from tests.fakes import an_op

_numbers = itertools.count(1)
TRACE = bytes(15) + b"\x01"


def fresh_span_id() -> bytes:
    """Another one each time."""
    return next(_numbers).to_bytes(8, "big")


def a_span(name: str = "work", **fields: Any) -> Span:
    """A valid span; *fields* override its defaults."""
    plain = {"trace_id": TRACE, "span_id": fresh_span_id(), "start_time_unix_nano": 1, "end_time_unix_nano": 2}
    return Span(name=name, **{**plain, **fields})


def a_failed_span(**fields: Any) -> Span:
    """A span whose status is an error."""
    return a_span(status=Status(code=Status.STATUS_CODE_ERROR, message="no"), **fields)


def an_op_span(op: ObservedOp | None = None, **fields: Any) -> Span:
    """A span that mirrors an op, as exported by another observer."""
    span = a_span(**fields)
    known = op or an_op(op_id=f"op-{span.span_id.hex()}", source="otlp")
    for key, value in op_attributes(known).items():
        kind = {bool: "bool_value", int: "int_value", float: "double_value"}.get(type(value), "string_value")
        setattr(span.attributes.add(key=key).value, kind, value)
    return span


def a_request(*spans: Span) -> ExportTraceServiceRequest:
    """All *spans* in one scope of one resource."""
    request = ExportTraceServiceRequest()
    resource_spans = request.resource_spans.add(schema_url="https://example.test/resource")
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "agent"
    scope_spans = resource_spans.scope_spans.add(schema_url="https://example.test/scope")
    scope_spans.scope.name = "instrumentation"
    scope_spans.spans.extend(spans)
    return request


def flat(request: ExportTraceServiceRequest | bytes) -> list[tuple[bytes, bytes, bytes]]:
    """Each span of *request* with its resource and its scope, serialised: what must not change on the way."""
    message = ExportTraceServiceRequest.FromString(request) if isinstance(request, bytes) else request
    found = []
    for resource in message.resource_spans:
        resource_head = _head(resource, "scope_spans")
        for scope in resource.scope_spans:
            scope_head = _head(scope, "spans")
            found += [(resource_head, scope_head, span.SerializeToString(deterministic=True)) for span in scope.spans]
    return found


def names(requests: Iterable[bytes]) -> list[str]:
    """The names of all spans."""
    return [Span.FromString(span).name for request in requests for _, _, span in flat(request)]


def _head(message: ResourceSpans | ScopeSpans, children: str) -> bytes:
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField(children)  # type: ignore[arg-type]  # each has the one that is named
    head: bytes = copy.SerializeToString(deterministic=True)
    return head
