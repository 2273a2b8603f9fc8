"""The OpenAPI description of the doors to what was learnt: incidents, corrections, playbook, advice."""

from __future__ import annotations

from typing import Any, Final, get_args

from sidecar.model import IncidentState
from sidecar.receivers import openapi_parts as parts
from sidecar.receivers.hand_body import MAX_BY, MAX_NOTE
from sidecar.receivers.op_filter import ADVICE_LIMIT, MAX_ADVICE, MAX_LIMIT, MAX_TASK

_TEXT: Final = {"type": "string"}
_TASK: Final = {**_TEXT, "minLength": 1, "maxLength": MAX_TASK}
_READER: Final = parts.query("task", _TASK, "the task of the agent that reads")


def incidents(incident: dict[str, Any]) -> dict[str, Any]:
    """Paths of incidents, corrections and the webhook; *incident* is an incident's schema."""
    key = {"name": "fingerprint", "in": "path", "required": True, "schema": {"type": "string"}}
    one = "|".join(get_args(IncidentState))
    pattern = {"type": "string", "pattern": f"^({one})(,({one}))*$"}
    states = parts.query("state", pattern, "only in these states, comma-separated")
    body = _said_by_hand({})
    hand = {
        "parameters": [key],
        "requestBody": {"content": {"application/json": {"schema": body}}},
        "responses": {
            "200": parts.answer("The changed incident; the decision is in the journal", incident),
            **parts.errors("400", "401", "403", "404", "413", "415", "421", "422", "503"),
        },
    }
    listed = parts.paged_list("Failures by fingerprint, the most recent first", "incidents", incident)
    listed["get"]["parameters"].append(states)
    details = {
        "allOf": [incident, parts.fields(history=parts.array({}), timeline=parts.array({}), common=parts.array({}))]
    }
    return {
        "/corrections": parts.paged_list(
            "What was corrected, what failed before and what followed, the most recent first", "corrections", _review()
        ),
        "/webhook/test": {"post": parts.read("Send a test post to the webhook", parts.fields(queued={}), "404", "503")},
        "/incidents": listed,
        "/incidents/{fingerprint}": {"get": parts.read("One incident in full", details, "404", parameters=[key])},
        **{
            f"/incidents/{{fingerprint}}/{action}": {"post": {"summary": summary, **hand}}
            for action, summary in (
                ("resolve", "Mark as resolved; a later failure makes it `regressed`"),
                ("ignore", "Only count it from now on"),
                ("reopen", "Make it `ongoing`, whatever it was"),
            )
        },
    }


def _review() -> dict[str, Any]:
    return parts.fields(
        kind={"type": "string"},
        corrections=parts.COUNT,
        operations=parts.COUNT,
        successes=parts.COUNT,
        followed=parts.fields(succeeded=parts.COUNT, of=parts.COUNT),
        reviews=parts.array({"type": "object"}),
    )


def learning(entry: dict[str, Any], history: dict[str, Any], advice: dict[str, Any]) -> dict[str, Any]:
    """Paths of the playbook and of advice, given the schemas of an *entry*, its *history* and *advice*."""
    return {**_playbooks(entry), **_playbook(history), **_advice(advice)}


def _playbooks(entry: dict[str, Any]) -> dict[str, Any]:
    """The list of entries, and the way in for those of another playbook."""
    as_of = parts.query("as_of", {**_TEXT, "format": "date-time"}, "the entries as of that time")
    entries = parts.paged_list("What works and what does not, the most recently changed first", "playbooks", entry)
    entries["get"]["parameters"] += [as_of, _READER]
    entries["get"]["responses"] |= parts.errors("503")
    return {
        "/playbooks": entries,
        "/playbooks/import": {
            "post": parts.write(
                "Import entries of another playbook as candidates: all of them, or none",
                _import(),
                "The entries are in the journal",
                parts.fields(imported=parts.array(_TEXT), known=parts.COUNT),
            )
        },
    }


def _playbook(history: dict[str, Any]) -> dict[str, Any]:
    """One entry, and what a person may decide on it."""
    entry_id = {"name": "playbook_id", "in": "path", "required": True, "schema": _TEXT}
    version = {"type": ["integer", "null"], "minimum": 1, "description": "The version that was read; else the latest"}
    who_why = _said_by_hand({"version": version})
    return {
        "/playbooks/{playbook_id}": {
            "parameters": [entry_id],
            "get": parts.read(
                "One entry with its versions and what was decided on it",
                history,
                "404",
                "422",
                "503",
                parameters=[_READER],
            ),
        },
        **{
            f"/playbooks/{{playbook_id}}/{action}": {
                "parameters": [entry_id],
                "post": parts.write(
                    f"A person decides: {does}", who_why, "The entry as it is now", history, *codes, required=False
                ),
            }
            for action, does, codes in (
                ("approve", "agents may be told this version", ("409",)),
                ("retire", "agents are not told the entry any more", ()),
                ("restore", "a retirement is taken back, and the entry is measured anew", ("409",)),
            )
        },
    }


def _advice(advice: dict[str, Any]) -> dict[str, Any]:
    """Advice, and what came of it."""
    exposure_id = {"name": "exposure_id", "in": "path", "required": True, "schema": _TEXT}
    said = {**parts.fields(success={"type": "boolean"}), "additionalProperties": False}
    return {
        "/advice": {"get": parts.read("What to do or avoid now", advice, "422", "503", parameters=_advice_query())},
        "/advice/{exposure_id}/outcome": {
            "parameters": [exposure_id],
            "post": parts.write(
                "Report the outcome of advice",
                said,
                "The report is in the journal",
                parts.fields(accepted={"const": True}),
            ),
        },
    }


def _said_by_hand(more: dict[str, Any]) -> dict[str, Any]:
    """The schema of who decides, and why."""
    note = {"type": "string", "maxLength": MAX_NOTE}
    return {
        "type": "object",
        "additionalProperties": False,
        "description": "Who decides, and why (`note`, also called `why`: not both); all may be missing",
        "properties": {"by": {"type": "string", "maxLength": MAX_BY}, "note": note, "why": note, **more},
        "not": {"required": ["note", "why"]},
    }


def _import() -> dict[str, Any]:
    """The fields certainly accepted; `observer playbook export --format json` writes more, read or ignored."""
    number = {"type": "number", "minimum": -(2**53), "maximum": 2**53}
    term = {"anyOf": [_printable(0, 60), {"type": "boolean"}, number, {"type": "null"}]}
    terms = {"type": "object", "maxProperties": 8, "propertyNames": _printable(1, 60), "additionalProperties": term}
    kind = {"enum": ["do", "avoid", "correction"]}
    entry = parts.fields(kind=kind, endpoint=_printable(1, 256), text=_printable(1, 500))
    entry["properties"] |= {"when": terms, "set": terms}
    entry["additionalProperties"] = False
    entries = {**parts.array(entry), "maxItems": 1000}
    return {**parts.fields(format={"const": "observer.playbook/1"}, entries=entries), "additionalProperties": False}


def _printable(least: int, most: int) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^[ -~]{{{least},{most}}}$"}


def _advice_query() -> list[dict[str, Any]]:
    limit = {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": ADVICE_LIMIT}
    features = {"type": "object", "additionalProperties": _TEXT, "maxProperties": 64}
    return [
        {**parts.query("endpoint", {**_TEXT, "minLength": 1}, "what is about to be called"), "required": True},
        parts.query("task", _TASK, "the agent's task; it stays in its group"),
        parts.query("given", _TEXT, "comma-separated names of what the agent cannot change"),
        parts.query("limit", limit, f"at most this many, and never more than {MAX_ADVICE}"),
        {**parts.query("features", features, "every other name is a field or feature of the call; one "
         "that is called like a parameter is `features.<name>`"), "style": "form", "explode": True},
    ]  # fmt: skip
