"""Building blocks of the OpenAPI description: schemas, parameters, responses, and kinds of calls."""

from __future__ import annotations

from typing import Any, Final

from sidecar.receivers.op_filter import MAX_LIMIT

COUNT: Final = {"type": "integer", "minimum": 0}
_ERROR = {
    "type": "object",
    "properties": {"error": {"type": "string"}},
    "required": ["error"],
}
_MEANINGS = {
    "400": "malformed",
    "401": "no token, or an unknown one",
    "403": "the token lacks the scope, or the Origin is foreign",
    "404": "unknown; or the cursor's op is no longer in memory; or this signal is not supported",
    "409": "the event's id is known with another payload",
    "413": "too large",
    "415": "an unsupported encoding",
    "421": "the Host is not a name of this observer",
    "422": "well-formed, but a value is wrong; the text names it",
    "502": "the upstream server does not answer",
    "503": "overloaded, or the journal cannot be written; see Retry-After",
}


def fields(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with these required fields."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def array(items: dict[str, Any]) -> dict[str, Any]:
    """A list of *items*."""
    return {"type": "array", "items": items}


def page(**items: Any) -> dict[str, Any]:
    """An object with *items*, and `next_cursor` if there is a next page."""
    found = fields(**items)
    found["properties"]["next_cursor"] = {"type": "string"}
    return found


def query(name: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    """A query parameter."""
    return {"name": name, "in": "query", "schema": schema, "description": text}


def paging(default: int) -> list[dict[str, Any]]:
    """The two parameters of paged lists."""
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": default}
    return [
        query("limit", limit, "at most this many; fewer if they are large"),
        query("cursor", {"type": "string"}, "`next_cursor` of the previous page"),
    ]


def body(content: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A request body by media type."""
    return {"required": True, "content": {media: {"schema": schema} for media, schema in content.items()}}


def answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON response."""
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def errors(*codes: str) -> dict[str, Any]:
    """The error responses by status."""
    return {code: answer(_MEANINGS[code], _ERROR) for code in codes}


def read(
    summary: str,
    schema: dict[str, Any],
    *codes: str,
    parameters: list[dict[str, Any]] | None = None,
    open_to_all: bool = False,
) -> dict[str, Any]:
    """A reading call; *codes* are its errors besides those that every call has."""
    refusals = ("403", "421") if open_to_all else ("401", "403", "421")
    return {
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        **({"security": []} if open_to_all else {}),
        "responses": {"200": answer("OK", schema), **errors(*refusals, *codes)},
    }


def write(
    summary: str, taken: dict[str, Any], done: str, given: dict[str, Any], *codes: str, required: bool = True
) -> dict[str, Any]:
    """A call that takes *taken* as JSON and returns *given*; *codes* are its errors besides the common ones."""
    return {
        "summary": summary,
        "requestBody": {**body({"application/json": taken}), "required": required},
        "responses": {
            "200": answer(done, given),
            **errors("400", "401", "403", "404", *codes, "413", "415", "421", "422", "503"),
        },
    }


def paged_list(summary: str, name: str, item: dict[str, Any]) -> dict[str, Any]:
    """A paged list."""
    return {"get": read(summary, page(**{name: array(item)}), "404", "422", parameters=paging(MAX_LIMIT))}


def text(summary: str, media: str, *codes: str) -> dict[str, Any]:
    """A call that returns text of the type *media*."""
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": {media: {"schema": {"type": "string"}}}},
            **errors("401", "403", "421", *codes),
        },
    }
