"""The description of the HTTP doors, in OpenAPI 3.1: message schemas from the code, the rest written beside it."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from sidecar.model import Incident, IncidentState, ObservedOp
from sidecar.model_learning import Advice, PlaybookHistory, PlaybookView
from sidecar.receivers.event_fields import FIELD_SCHEMAS
from sidecar.receivers.op_filter import ADVICE_LIMIT, DEFAULT_LIMIT, EXACT, MAX_ADVICE, MAX_LIMIT, MAX_TASK
from sidecar.receivers.openapi_langfuse import langfuse_paths

_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_COUNT = {"type": "integer", "minimum": 0}
_MEANINGS = {
    "400": "not readable as what this call takes",
    "401": "no token, or an unknown one",
    "403": "the token lacks the scope, or the Origin is foreign",
    "404": "not here: not known, the cursor's op is no longer in memory, or this signal is not taken",
    "409": "the event's id is known with another payload",
    "413": "too large",
    "415": "an encoding that is not read",
    "421": "the Host is not a name of this observer",
    "422": "readable, but a value is wrong; the text names it",
    "502": "the server that is asked does not answer",
    "503": "not now: overloaded, or the journal cannot be written; see Retry-After",
}


def openapi(version: str) -> bytes:
    """The whole description as JSON."""
    schemas, components = msgspec.json.schema_components(
        [ObservedOp, Incident, PlaybookView, PlaybookHistory, Advice], ref_template="#/components/schemas/{name}"
    )
    op, incident, entry, history, advice = schemas
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Lakehouse Observer",
            "version": version,
            "description": "The third-party witness beside an agent gateway.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": {
            "/event": {"post": _event()},
            "/events": {"post": _events()},
            "/health": {"get": _read("Health", _object(status={"const": "ok"}, ops_in_ring=_COUNT), open_to_all=True)},
            "/livez": {"get": _read("Alive", _object(status={"const": "ok"}), open_to_all=True)},
            "/readyz": {"get": {**_read("Ready", _object(status={"const": "ok"}), "503", open_to_all=True)}},
            "/stats": {"get": _read("Counts over the ring", _stats())},
            "/ops": {
                "get": _read(
                    "Ops in memory, newest first", _page(ops=_array(op)), "404", "422", parameters=_filters(paged=True)
                )
            },
            "/ops/stream": {"get": _stream()},
            **_incidents(incident),
            **_learning(entry, history, advice),
            "/": {"get": {**_text("A page for people: all of this, live", "text/html"), "security": []}},
            "/metrics": {"get": _text("Own metrics, as Prometheus reads them", "text/plain")},
            "/v1/traces": {"post": _otlp()},
            **{f"/v1/{signal}": {"post": _not_taken(signal)} for signal in ("logs", "metrics")},
            **langfuse_paths(_otlp(), _answer, _errors),
            "/openapi.json": {"get": _read("This description", {"type": "object"}, open_to_all=True)},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    return msgspec.json.encode(document)


def _incidents(incident: dict[str, Any]) -> dict[str, Any]:
    key = {"name": "fingerprint", "in": "path", "required": True, "schema": {"type": "string"}}
    one = "|".join(get_args(IncidentState))
    pattern = {"type": "string", "pattern": f"^({one})(,({one}))*$"}
    states = _query("state", pattern, "only in these states, with commas between")
    body = {"type": "object", "additionalProperties": False, "description": "Who decides, and why; both may be missing"}
    body["properties"] = {name: {"type": "string", "maxLength": most} for name, most in (("by", 100), ("note", 1000))}
    hand = {
        "parameters": [key],
        "requestBody": {"content": {"application/json": {"schema": body}}},
        "responses": {
            "200": _answer("The incident from now on; the decision is in the journal", incident),
            **_errors("400", "401", "403", "404", "413", "415", "421", "422", "503"),
        },
    }
    listed = _list("Failures by fingerprint, the most recent first", "incidents", incident)
    listed["get"]["parameters"].append(states)
    details = {"allOf": [incident, _object(history=_array({}), timeline=_array({}), common=_array({}))]}
    return {
        "/corrections": _list(
            "What was corrected, what failed before and what followed, the most recent first", "corrections", _review()
        ),
        "/webhook/test": {
            "post": _read("A test goes to the webhook as incidents go", _object(queued={}), "404", "503")
        },
        "/incidents": listed,
        "/incidents/{fingerprint}": {"get": _read("One incident in full", details, "404", parameters=[key])},
        **{
            f"/incidents/{{fingerprint}}/{action}": {"post": {"summary": summary, **hand}}
            for action, summary in (
                ("resolve", "It is over; a failure that happens later makes it `regressed`"),
                ("ignore", "It is counted and no more"),
                ("reopen", "It is `ongoing` again"),
            )
        },
    }


def _learning(entry: dict[str, Any], history: dict[str, Any], advice: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "string"}
    task = _query("task", {**text, "minLength": 1, "maxLength": MAX_TASK}, "the task of the agent that reads")
    entry_id = {"name": "playbook_id", "in": "path", "required": True, "schema": text}
    exposure_id = {"name": "exposure_id", "in": "path", "required": True, "schema": text}
    as_of = _query("as_of", {**text, "format": "date-time"}, "as they were then")
    entries = _list("What works and what does not, the most recently changed first", "playbooks", entry)
    entries["get"]["parameters"] += [as_of, task]
    entries["get"]["responses"] |= _errors("503")
    said_by = {"why": {**text, "maxLength": 500}, "version": {"type": ["integer", "null"], "minimum": 1}}
    why = {"type": "object", "properties": said_by, "additionalProperties": False}
    said = {**_object(success={"type": "boolean"}), "additionalProperties": False}
    return {
        "/playbooks": entries,
        "/playbooks/import": {
            "post": _write(
                "Entries of another playbook become candidates here: all of them, or none",
                _import(),
                "They are in the journal",
                _object(imported=_array(text), known=_COUNT),
            )
        },
        "/playbooks/{playbook_id}": {
            "parameters": [entry_id],
            "get": _read(
                "One entry with its versions and what was decided on it",
                history,
                "404",
                "422",
                "503",
                parameters=[task],
            ),
        },
        **{
            f"/playbooks/{{playbook_id}}/{action}": {
                "parameters": [entry_id],
                "post": _write(f"A person decides: {action}", why, "The entry as it is now", history, required=False),
            }
            for action in ("approve", "retire", "restore")
        },
        "/advice": {"get": _read("What to do or avoid now", advice, "422", "503", parameters=_advice_query())},
        "/advice/{exposure_id}/outcome": {
            "parameters": [exposure_id],
            "post": _write("How it went", said, "It is in the journal", _object(accepted={"const": True})),
        },
    }


def _import() -> dict[str, Any]:
    """What is certainly taken; `observer playbook export --format json` writes more, which is read or passed over."""
    number = {"type": "number", "minimum": -(2**53), "maximum": 2**53}
    term = {"anyOf": [_printable(0, 60), {"type": "boolean"}, number, {"type": "null"}]}
    terms = {"type": "object", "maxProperties": 8, "propertyNames": _printable(1, 60), "additionalProperties": term}
    kind = {"enum": ["do", "avoid", "correction"]}
    entry = _object(kind=kind, endpoint=_printable(1, 256), text=_printable(1, 500))
    entry["properties"] |= {"when": terms, "set": terms}
    entry["additionalProperties"] = False
    entries = {**_array(entry), "maxItems": 1000}
    return {**_object(format={"const": "observer.playbook/1"}, entries=entries), "additionalProperties": False}


def _printable(least: int, most: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^[ -~]{{{least},{most}}}$"}


def _advice_query() -> list[dict[str, Any]]:
    text = {"type": "string"}
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": ADVICE_LIMIT}
    features = {"type": "object", "additionalProperties": text, "maxProperties": 64}
    return [
        {**_query("endpoint", {**text, "minLength": 1}, "what is about to be called"), "required": True},
        _query("task", {**text, "minLength": 1, "maxLength": MAX_TASK}, "the agent's task: it keeps its coins"),
        _query("given", text, "comma-separated names of what the agent cannot change"),
        _query("limit", limit, f"at most this many, and never more than {MAX_ADVICE}"),
        {**_query("features", features, "every other name is a field or feature of the call"), "style": "form",
         "explode": True},
    ]  # fmt: skip


def _write(
    summary: str, body: dict[str, Any], done: str, answer: dict[str, Any], *, required: bool = True
) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {**_body({"application/json": body}), "required": required},
        "responses": {
            "200": _answer(done, answer),
            **_errors("400", "401", "403", "404", "413", "415", "421", "422", "503"),
        },
    }


def _review() -> dict[str, Any]:
    return _object(
        kind={"type": "string"},
        corrections=_COUNT,
        operations=_COUNT,
        successes=_COUNT,
        followed=_object(succeeded=_COUNT, of=_COUNT),
        reviews=_array({"type": "object"}),
    )


def _event() -> dict[str, Any]:
    return {
        "summary": "One event becomes a span, and so an op; one sent before is acknowledged again, no more",
        "parameters": [*_trace_headers(), _idempotency_header()],
        "requestBody": _body({"application/json": _event_schema()}),
        "responses": {
            "200": _answer("Its line is in the journal", _acknowledgement()),
            **_errors("400", "401", "403", "409", "413", "415", "421", "422", "503"),
        },
    }


def _otlp() -> dict[str, Any]:
    request = {"type": "object", "description": "An `ExportTraceServiceRequest`; as `application/x-protobuf` likewise"}
    partial = {"type": "object", "description": "How many spans were refused, and why the first was"}
    answer = {"type": "object", "properties": {"partialSuccess": partial}}
    return {
        "summary": "Spans of agents that already trace: OTLP over HTTP, gzip or not; answered in the same encoding",
        "requestBody": _body({"application/json": request}),
        "responses": {
            "200": _answer("The spans are on disk", answer),
            **_errors("400", "401", "403", "413", "415", "421", "503"),
        },
    }


def _not_taken(signal: str) -> dict[str, Any]:
    return {
        "summary": f"OTLP {signal}: refused for good, with what to do instead",
        "responses": _errors("401", "403", "404", "421"),
    }


def _acknowledgement() -> dict[str, Any]:
    answer = _object(accepted={"const": True}, ring_size=_COUNT)
    answer["properties"]["trace_id"] = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    answer["properties"]["span_id"] = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
    answer["description"] = "The span's ids are left out only where a repeated event came first long ago"
    return answer


def _events() -> dict[str, Any]:
    rejected = _array(_object(index=_COUNT, error={"type": "string"}))
    return {
        "summary": "Many events: an array, or one a line; gzip or not",
        "parameters": _trace_headers(),
        "requestBody": _body(
            {
                "application/json": {"description": "An array of what `/event` takes; wrong ones are named"},
                "application/x-ndjson": {"type": "string"},
            }
        ),
        "responses": {
            "200": _answer(
                "The good ones are in the journal", _object(accepted=_COUNT, rejected=rejected, ring_size=_COUNT)
            ),
            **_errors("400", "401", "403", "413", "415", "421", "503"),
        },
    }


def _event_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Every field may be missing or null; fields not named here are kept in `extra`.",
        "properties": {name: {"anyOf": [schema, {"type": "null"}]} for name, schema in FIELD_SCHEMAS.items()},
    }


def _stats() -> dict[str, Any]:
    recent = {"type": "object", "required": ["ts", "ok"]}
    counts = _object(
        total=_COUNT,
        successes=_COUNT,
        failures=_COUNT,
        by_source={"type": "object", "additionalProperties": _COUNT},
        recent_scenario_ops=_array(recent),
    )
    return {**counts, "additionalProperties": True}


def _page(**items: Any) -> dict[str, Any]:
    page = _object(**items)
    page["properties"]["next_cursor"] = {"type": "string"}
    return page


def _stream() -> dict[str, Any]:
    return {**_text("Each op as it settles: events `op`, and `missed` with a count", "text/event-stream", "422", "503"),
            "parameters": _filters(paged=False)}  # fmt: skip


def _filters(*, paged: bool) -> list[dict[str, Any]]:
    moment = {"type": "string", "format": "date-time"}
    filters = [_query(name, {"type": "string"}, "equals") for name in EXACT]
    filters += [
        _query("success", {"type": "boolean"}, "equals"),
        _query("since", moment, "at or after"),
        _query("until", moment, "at or before"),
    ]
    amended = _query("amended", {"type": "boolean"}, "also those that a later one amends, which they name: amended_by")
    return [*filters, amended, *_paging(DEFAULT_LIMIT)] if paged else filters


def _paging(default: int) -> list[dict[str, Any]]:
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": default}
    return [
        _query("limit", limit, "at most this many; fewer where they are large"),
        _query("cursor", {"type": "string"}, "`next_cursor` of the page before"),
    ]


def _list(summary: str, name: str, item: dict[str, Any]) -> dict[str, Any]:
    """A list that is read a page at a time."""
    return {"get": _read(summary, _page(**{name: _array(item)}), "404", "422", parameters=_paging(MAX_LIMIT))}


def _query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _trace_headers() -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "schema": {"type": "string"}, "description": "W3C Trace Context"}
        for name in ("traceparent", "tracestate")
    ]


def _idempotency_header() -> dict[str, Any]:
    text = "The event's id, if it has no `event_id`: the same again is acknowledged and not recorded"
    return {"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}, "description": text}


def _read(
    summary: str,
    schema: dict[str, Any],
    *errors: str,
    parameters: list[dict[str, Any]] | None = None,
    open_to_all: bool = False,
) -> dict[str, Any]:
    refusals = ("403", "421") if open_to_all else ("401", "403", "421")
    return {
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        **({"security": []} if open_to_all else {}),
        "responses": {"200": _answer("OK", schema), **_errors(*refusals, *errors)},
    }


def _text(summary: str, media: str, *errors: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": {media: {"schema": {"type": "string"}}}},
            **_errors("401", "403", "421", *errors),
        },
    }


def _body(content: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"required": True, "content": {media: {"schema": schema} for media, schema in content.items()}}


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _errors(*codes: str) -> dict[str, Any]:
    return {code: _answer(_MEANINGS[code], _ERROR) for code in codes}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}
