"""The OpenAPI description of Langfuse's endpoints; Langfuse's own reference has the details."""

from __future__ import annotations

from typing import Any, Final

from sidecar.receivers import openapi_parts as parts

API: Final = "/api/public"
_TEXT: Final = {"type": "string", "minLength": 1}
_REFUSED: Final = ("401", "403", "421")
_READ: Final = ("400", *_REFUSED, "413", "415", "503")
_HEALTH: Final = {"type": "object", "properties": {"status": {"const": "OK"}, "version": {"type": "string"}}}


def langfuse_paths(traces: dict[str, Any]) -> dict[str, Any]:
    """Paths of Langfuse's endpoints; *traces* describes OTLP."""
    return {
        f"{API}/otel/v1/traces": {"post": {**traces, "summary": "Spans of Langfuse's SDKs: as `/v1/traces`"}},
        f"{API}/ingestion": {"post": _ingestion()},
        f"{API}/scores": {"post": _scores()},
        f"{API}/health": {
            "get": {
                "summary": "Health, in Langfuse's form",
                "security": [],
                "responses": {"200": parts.answer("OK", _HEALTH), **parts.errors("403", "421")},
            }
        },
        **_relayed(),
    }


def _ingestion() -> dict[str, Any]:
    item = {"type": "object", "properties": {"id": {"type": "string"}, "status": {"type": "integer"}}}
    both = {
        "type": "object",
        "properties": {name: {"type": "array", "items": item} for name in ("successes", "errors")},
    }
    batch = {"type": "object", "properties": {"batch": {"type": "array"}}, "required": ["batch"]}
    return {
        "summary": "Events of Langfuse's older SDKs, scores among them",
        "requestBody": parts.body({"application/json": batch}),
        "responses": {
            "207": parts.answer("The accepted items are on disk; the others are listed", both),
            **parts.errors(*_READ),
        },
    }


def _relayed() -> dict[str, Any]:
    """Paths whose requests go on to a Langfuse server."""
    relayed = {
        "200": parts.answer("The Langfuse server's response", {"type": "object"}),
        **parts.errors("400", *_REFUSED, "404", "413", "415", "502", "503"),
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    media_id = {**name, "name": "media_id"}
    project = {"type": "object", "properties": {"data": {"type": "array"}}, "required": ["data"]}
    return {
        f"{API}/projects": {
            "get": {"summary": "The projects of the keys", "responses": {**relayed, "200": parts.answer("OK", project)}}
        },
        f"{API}/v2/prompts": {"get": {"summary": "Prompts of the Langfuse server", "responses": relayed}},
        f"{API}/v2/prompts/{{name}}": {
            "get": {"summary": "One prompt", "parameters": [name], "responses": relayed},
        },
        f"{API}/media": {
            "post": {
                "summary": "Where to upload media, from the Langfuse server; without one, nowhere",
                "responses": {**relayed, "201": parts.answer("The content exists already", {"type": "object"})},
            }
        },
        f"{API}/media/{{media_id}}": {
            "patch": {"summary": "Report the outcome of an upload", "parameters": [media_id], "responses": relayed}
        },
    }


def _scores() -> dict[str, Any]:
    one = {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "value": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
            "traceId": _TEXT,
        },
        "required": ["name", "value", "traceId"],
    }
    of_each = {
        "type": "object",
        "properties": {"accepted": parts.COUNT, "rejected": parts.COUNT, "errors": {"type": "array"}},
    }
    return {
        "summary": "A score, or a list of them",
        "requestBody": parts.body({"application/json": {"anyOf": [one, {"type": "array"}]}}),
        "responses": {
            "200": parts.answer("The score is on disk", {"type": "object", "properties": {"id": {"type": "string"}}}),
            "202": parts.answer("All scores of the list are on disk", {"type": "object"}),
            "207": parts.answer("Some were refused; the others are on disk", of_each),
            **parts.errors(*_READ, "422"),
        },
    }
