"""The description of Langfuse's doors, for `openapi`: Langfuse's own reference has the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

API: Final = "/api/public"
_TEXT: Final = {"type": "string", "minLength": 1}
_COUNT: Final = {"type": "integer", "minimum": 0}
_REFUSED: Final = ("401", "403", "421")
_READ: Final = ("400", *_REFUSED, "413", "415", "503")

Answer = Callable[[str, dict[str, Any]], dict[str, Any]]
Errors = Callable[..., dict[str, Any]]


def langfuse_paths(traces: dict[str, Any], answer: Answer, errors: Errors) -> dict[str, Any]:
    """Paths of Langfuse's doors; *traces* describes OTLP, *answer* and *errors* make responses."""
    item = {"type": "object", "properties": {"id": {"type": "string"}, "status": {"type": "integer"}}}
    both = {
        "type": "object",
        "properties": {name: {"type": "array", "items": item} for name in ("successes", "errors")},
    }
    batch = {"type": "object", "properties": {"batch": {"type": "array"}}, "required": ["batch"]}
    relayed = {
        "200": answer("What the Langfuse server says", {"type": "object"}),
        **errors("400", *_REFUSED, "404", "413", "415", "502", "503"),
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    media_id = {**name, "name": "media_id"}
    project = {"type": "object", "properties": {"data": {"type": "array"}}, "required": ["data"]}
    health = {"type": "object", "properties": {"status": {"const": "OK"}, "version": {"type": "string"}}}
    return {
        f"{API}/otel/v1/traces": {"post": {**traces, "summary": "Spans of Langfuse's SDKs: as `/v1/traces`"}},
        f"{API}/ingestion": {
            "post": {
                "summary": "Events of Langfuse's older SDKs, scores among them",
                "requestBody": _body(batch),
                "responses": {"207": answer("What was taken is on disk; the rest is named", both), **errors(*_READ)},
            }
        },
        f"{API}/scores": {"post": _scores(answer, errors)},
        f"{API}/health": {
            "get": {
                "summary": "Health, as Langfuse says it",
                "security": [],
                "responses": {"200": answer("OK", health), **errors("403", "421")},
            }
        },
        f"{API}/projects": {
            "get": {"summary": "What the keys are for", "responses": {**relayed, "200": answer("OK", project)}}
        },
        f"{API}/v2/prompts": {"get": {"summary": "Prompts, asked of the Langfuse server", "responses": relayed}},
        f"{API}/v2/prompts/{{name}}": {
            "get": {"summary": "One of them", "parameters": [name], "responses": relayed},
        },
        f"{API}/media": {
            "post": {
                "summary": "Where to upload media: asked of the Langfuse server; without one, nowhere",
                "responses": {**relayed, "201": answer("Known already", {"type": "object"})},
            }
        },
        f"{API}/media/{{media_id}}": {
            "patch": {"summary": "How an upload went", "parameters": [media_id], "responses": relayed}
        },
    }


def _scores(answer: Answer, errors: Errors) -> dict[str, Any]:
    one = {
        "type": "object",
        "properties": {
            "name": _TEXT,
            "value": {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]},
            "traceId": _TEXT,
        },
        "required": ["name", "value", "traceId"],
    }
    of_each = {"type": "object", "properties": {"accepted": _COUNT, "rejected": _COUNT, "errors": {"type": "array"}}}
    return {
        "summary": "A score, or a list of them",
        "requestBody": _body({"anyOf": [one, {"type": "array"}]}),
        "responses": {
            "200": answer("The one is on disk", {"type": "object", "properties": {"id": {"type": "string"}}}),
            "202": answer("All of a list are on disk", {"type": "object"}),
            "207": answer("Some were refused; the others are on disk", of_each),
            **errors(*_READ, "422"),
        },
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}
