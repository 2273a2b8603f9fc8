"""The OpenAPI 3.1 description of the HTTP doors: message schemas generated from the code, the rest written by hand."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.model import Incident, ObservedOp
from sidecar.model_learning import Advice, PlaybookHistory, PlaybookView
from sidecar.receivers import openapi_intake as intake
from sidecar.receivers import openapi_memory as memory
from sidecar.receivers import openapi_parts as parts
from sidecar.receivers.op_filter import DEFAULT_LIMIT, EXACT
from sidecar.receivers.openapi_langfuse import langfuse_paths


def openapi(version: str) -> bytes:
    """The whole description as JSON."""
    schemas, components = msgspec.json.schema_components(
        [ObservedOp, Incident, PlaybookView, PlaybookHistory, Advice], ref_template="#/components/schemas/{name}"
    )
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Lakehouse Observer",
            "version": version,
            "description": "The third-party witness beside an agent gateway. Errors are JSON with `error`: "
            "a path that is not listed gets 404, a method that its path does not list 405 with `Allow`, "
            "and a body in an encoding other than gzip 415.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": _paths(*schemas),
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)


def _paths(
    op: dict[str, Any],
    incident: dict[str, Any],
    entry: dict[str, Any],
    history: dict[str, Any],
    advice: dict[str, Any],
) -> dict[str, Any]:
    return {
        "/event": {"post": intake.event()},
        "/events": {"post": intake.events()},
        "/health": {
            "get": parts.read("Health", parts.fields(status={"const": "ok"}, ops_in_ring=parts.COUNT), open_to_all=True)
        },
        "/livez": {"get": parts.read("Alive", parts.fields(status={"const": "ok"}), open_to_all=True)},
        "/readyz": {"get": {**parts.read("Ready", parts.fields(status={"const": "ok"}), "503", open_to_all=True)}},
        "/stats": {"get": parts.read("Counts over the ring", _stats())},
        "/ops": {
            "get": parts.read(
                "Ops in memory, newest first",
                parts.page(ops=parts.array(op)),
                "404",
                "422",
                parameters=_filters(paged=True),
            )
        },
        "/ops/stream": {"get": _stream()},
        **memory.incidents(incident),
        **memory.learning(entry, history, advice),
        "/": {"get": {**parts.text("The status page, live", "text/html"), "security": []}},
        "/metrics": {"get": parts.text("The observer's own metrics in Prometheus' text format", "text/plain")},
        "/v1/traces": {"post": intake.otlp()},
        **{f"/v1/{signal}": {"post": intake.not_taken(signal)} for signal in ("logs", "metrics")},
        **langfuse_paths(intake.otlp()),
        "/openapi.json": {"get": parts.read("This description", {"type": "object"}, open_to_all=True)},
    }


def _stats() -> dict[str, Any]:
    recent = {"type": "object", "required": ["ts", "ok"]}
    counts = parts.fields(
        total=parts.COUNT,
        successes=parts.COUNT,
        failures=parts.COUNT,
        by_source={"type": "object", "additionalProperties": parts.COUNT},
        recent_scenario_ops=parts.array(recent),
    )
    return {**counts, "additionalProperties": True}


def _stream() -> dict[str, Any]:
    what = "Each op as it settles: events `op`, and `missed` with a count"
    return {**parts.text(what, "text/event-stream", "422", "503"), "parameters": _filters(paged=False)}


def _filters(*, paged: bool) -> list[dict[str, Any]]:
    moment = {"type": "string", "format": "date-time"}
    filters = [parts.query(name, {"type": "string"}, "equals") for name in EXACT]
    filters += [
        parts.query("success", {"type": "boolean"}, "equals"),
        parts.query("since", moment, "at or after"),
        parts.query("until", moment, "at or before"),
    ]
    amended = parts.query(
        "amended", {"type": "boolean"}, "include ops that were replaced; `amended_by` names the replacing op"
    )
    return [*filters, amended, *parts.paging(DEFAULT_LIMIT)] if paged else filters
