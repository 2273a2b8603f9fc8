"""The OpenAPI description of the doors that take operations: events and OTLP."""

from __future__ import annotations

from typing import Any

from sidecar.receivers import openapi_parts as parts
from sidecar.receivers.event_fields import FIELD_SCHEMAS
from sidecar.receivers.event_hints import MAX_HINTS


def event() -> dict[str, Any]:
    """`POST /event`."""
    return {
        "summary": "One event becomes a span, and so an op; one sent before is acknowledged again, no more",
        "parameters": [*_trace_headers(), _idempotency_header()],
        "requestBody": parts.body({"application/json": _event_schema()}),
        "responses": {
            "200": parts.answer("Its line is in the journal", _acknowledgement()),
            **parts.errors("400", "401", "403", "409", "413", "415", "421", "422", "503"),
        },
    }


def events() -> dict[str, Any]:
    """`POST /events`."""
    rejected = parts.array(parts.fields(index=parts.COUNT, error={"type": "string"}))
    answer = parts.fields(accepted=parts.COUNT, rejected=rejected, ring_size=parts.COUNT)
    answer["properties"]["hints"] = {
        **parts.array(parts.fields(index=parts.COUNT, hint={"type": "string"})),
        "description": "What `/event` would hint at, each once, with the first event it is about",
        "maxItems": MAX_HINTS,
    }
    return {
        "summary": "Many events: an array, or one a line; gzip or not",
        "parameters": _trace_headers(),
        "requestBody": parts.body(
            {
                "application/json": {"description": "An array of what `/event` takes; wrong ones are named"},
                "application/x-ndjson": {"type": "string"},
            }
        ),
        "responses": {
            "200": parts.answer("The good ones are in the journal", answer),
            **parts.errors("400", "401", "403", "413", "415", "421", "503"),
        },
    }


def otlp() -> dict[str, Any]:
    """`POST /v1/traces`."""
    request = {"type": "object", "description": "An `ExportTraceServiceRequest`; as `application/x-protobuf` likewise"}
    partial = {"type": "object", "description": "How many spans were refused, and why the first was"}
    answer = {"type": "object", "properties": {"partialSuccess": partial}}
    return {
        "summary": "Spans of agents that already trace: OTLP over HTTP, gzip or not; answered in the same encoding",
        "requestBody": parts.body({"application/json": request}),
        "responses": {
            "200": parts.answer("The spans are on disk", answer),
            **parts.errors("400", "401", "403", "413", "415", "421", "503"),
        },
    }


def not_taken(signal: str) -> dict[str, Any]:
    """`POST /v1/logs` and `/v1/metrics`, by *signal*."""
    return {
        "summary": f"OTLP {signal}: refused for good, with what to do instead",
        "responses": parts.errors("401", "403", "404", "421"),
    }


def _event_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Every field may be missing or null; fields not named here are kept in `extra`.",
        "properties": {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in FIELD_SCHEMAS.items()},
    }


def _acknowledgement() -> dict[str, Any]:
    answer = parts.fields(accepted={"const": True}, ring_size=parts.COUNT)
    answer["properties"]["trace_id"] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    answer["properties"]["span_id"] = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
    answer["properties"]["hints"] = {
        **parts.array({"type": "string"}),
        "description": "Unknown fields whose names resemble known ones: they are kept in `extra`",
        "maxItems": MAX_HINTS,
    }
    answer["description"] = "The span's ids are left out only where a repeated event came first long ago"
    return answer


def _trace_headers() -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": {"type": "string"}, "description": "W3C Trace Context"}
        for name in ("traceparent", "tracestate")
    ]


def _idempotency_header() -> dict[str, Any]:
    text = "The event's id, if it has no `event_id`: the same again is acknowledged and not recorded"
    return {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}, "description": text}
