"""OTLP/JSON requests: the protobuf JSON mapping, but for ids, which are hex. Each becomes the protobuf request.

Source: OTLP specification, JSON Protobuf encoding: hex ids, integer enums, lowerCamelCase, unknown fields ignored.
"""

from __future__ import annotations

import base64
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError, EncodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans, Span

from sidecar.errors import MalformedError
from sidecar.receivers.bodies import parse_json
from sidecar.receivers.otlp_wire import Rejected

M = TypeVar("M", bound=Message)
_WRONG = (ParseError, DecodeError, EncodeError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
_IDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")


def protobuf_request(body: bytes, rejected: Rejected) -> bytes:
    """The request that JSON *body* says, serialised; spans that are not right are counted in *rejected*.

    Raises MalformedError. Slow, a tenth of a millisecond a span: for a thread.
    """
    said = parse_json(body)
    if not isinstance(said, dict):
        raise _malformed("it is not an object")
    request = ExportTraceServiceRequest()
    for resource in _objects(said, "resourceSpans", "resource_spans"):
        resource_spans = request.resource_spans.add()
        _fill(resource_spans, {k: v for k, v in resource.items() if k not in ("scopeSpans", "scope_spans")})
        for scope in _objects(resource, "scopeSpans", "scope_spans"):
            scope_spans = resource_spans.scope_spans.add()
            _fill(scope_spans, {k: v for k, v in scope.items() if k != "spans"})
            for span in _objects(scope, "spans", "spans"):
                _add_span(scope_spans, span, rejected)
    data: bytes = request.SerializeToString()
    return data


def _add_span(scope_spans: ScopeSpans, said: dict[str, Any], rejected: Rejected) -> None:
    try:
        links = [_with_ids(link) for link in said.get("links") or ()]
        span = ParseDict({**_with_ids(said), "links": links}, Span(), ignore_unknown_fields=True)
        span.SerializeToString()  # text with a lone surrogate is found only here
        scope_spans.spans.append(span)  # and what is nested too deeply here
    except _WRONG as exc:
        rejected.unreadable += 1
        rejected.add(f"{type(exc).__name__}: {exc}"[:200])


def _with_ids(said: dict[str, Any]) -> dict[str, Any]:
    """*said* with its hex ids in base64, as protobuf's JSON has bytes. Raises ValueError."""
    ids = {key: base64.b64encode(bytes.fromhex(said[key])).decode() for key in _IDS if said.get(key)}
    return {**said, **ids}


def _fill(message: Message, said: dict[str, Any]) -> None:
    try:
        ParseDict(said, message, ignore_unknown_fields=True)
        message.SerializeToString()
    except _WRONG as exc:
        raise _malformed(f"{type(exc).__name__}: {exc}"[:200]) from exc


def _objects(said: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    """The list under the first of *names* that is there. Raises MalformedError if it is not one of objects."""
    found: Any = next((said[name] for name in names if said.get(name) is not None), [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _malformed(f"{names[0]} is not a list of objects")
    return found


def _malformed(why: str) -> MalformedError:
    return MalformedError("the body is not an OTLP request in JSON", why, "See OTLP's JSON Protobuf encoding")
