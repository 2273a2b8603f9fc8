"""The OpenAPI description of the doors that take operations: events and OTLP."""

from __future__ import annotations

from typing import Any

from sidecar.receivers import openapi_parts as parts
from sidecar.receivers.event_fields import FIELD_SCHEMAS
from sidecar.receivers.event_hints import MAX_HINTS


def event() -> dict[str, Any]:
    """`POST /event`."""
    return {
        "summary": "Record one event as a span and an op; a repeated event is acknowledged and not recorded again",
        "parameters": [*_trace_headers(), _idempotency_header()],
        "requestBody": parts.body({"application/json": _event_schema()}),
        "responses": {
            "200": parts.answer("The op is in the journal", _acknowledgement()),
            **parts.errors("400", "401", "403", "409", "413", "415", "421", "422", "503"),
        },
    }


def events() -> dict[str, Any]:
    """`POST /events`."""
    rejected = parts.array(parts.fields(index=parts.COUNT, error={"type": "string"}))
    answer = parts.fields(accepted=parts.COUNT, rejected=rejected, ring_size=parts.COUNT)
    answer["properties"]["hints"] = {
        **parts.array(parts.fields(index=parts.COUNT, hint={"type": "string"})),
        "description": "The hints of `/event`, each once, with the index of the first event concerned",
        "maxItems": MAX_HINTS,
    }
    refused = parts.fields(error={"type": "string"})
    refused["properties"] |= answer["properties"]
    return {
        "summary": "Record many events: an array, or one per line; gzip or not",
        "parameters": _trace_headers(),
        "requestBody": parts.body(
            {
                "application/json": {
                    "anyOf": [parts.array(_event_schema()), _event_schema()],
                    "description": "Events, or one event; errors name the index",
                },
                "application/x-ndjson": {"type": "string"},
            }
        ),
        "responses": {
            "200": parts.answer("The valid events are in the journal", answer),
            **parts.errors("400", "401", "403", "413", "415", "421", "503"),
            "422": parts.answer("No event was valid, or they are inside an object", refused),
        },
    }


def otlp() -> dict[str, Any]:
    """`POST /v1/traces`."""
    request = {"type": "object", "description": "An `ExportTraceServiceRequest`; or as `application/x-protobuf`"}
    partial = {"type": "object", "description": "How many spans were rejected, and why the first was"}
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
        "description": "Unknown fields like known ones, which are kept in `extra`; a call without `success`",
        "maxItems": MAX_HINTS,
    }
    answer["description"] = "The span's ids are missing only if the event repeats one of long ago"
    return answer


def _trace_headers() -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": {"type": "string"}, "description": "W3C Trace Context"}
        for name in ("traceparent", "tracestate")
    ]


def _idempotency_header() -> dict[str, Any]:
    text = "The event's id, if it has no `event_id`: a repetition is acknowledged and not recorded again"
    return {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}, "description": text}
