"""Converts observations, traces and scores of Langfuse's API into our messages, `Fragment` and `Score`.

Ingestion events and rows of the reading API use the same field names. Called by `langfuse_receiver` and
`langfuse_poller`. The result is normalised and redacted, as it is journalled before it becomes an op.
Source: Langfuse public API, ingestion (`IngestionEvent`), observations v2, scores v3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from sidecar.clock import rfc3339_ms
from sidecar.errors import InvalidInputError
from sidecar.model import Fragment, Score
from sidecar.normalize import Normalizer, clean_text, json_text
from sidecar.spans import attributes as keys

OBSERVATION_TYPES: Final = (
    *("span", "generation", "event"),
    *("tool", "agent", "chain", "retriever", "evaluator", "embedding", "guardrail"),
)
KINDS: Final = ("trace", "observation", *OBSERVATION_TYPES)
DATA_TYPES: Final = ("NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION")
_MOST_VALUE: Final = 4096  # characters of an input or output that is kept whole
_KEPT: Final = 2048  # characters kept of a longer one
_MOST_TEXT: Final = 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HEX32: Final = re.compile("(?!0{32})[0-9a-f]{32}")
_HEX16: Final = re.compile("(?!0{16})[0-9a-f]{16}")
_UUID: Final = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBERS: Final = ("NUMERIC", "BOOLEAN")
_FIX: Final = "See Langfuse's API reference"


def trace_id_of(said: str) -> str:
    """The W3C trace id for Langfuse's id *said*: itself, a UUID's digits, or the beginning of its SHA-256.

    The last is what `create_trace_id(seed=…)` of Langfuse's SDKs returns.
    """
    lower = said.lower()
    if _HEX32.fullmatch(lower):
        return lower
    if _UUID.fullmatch(lower):
        return lower.replace("-", "")
    return sha256(said.encode("utf-8", "replace")).hexdigest()[:32]


def span_id_of(said: str) -> str:
    """The W3C span id for Langfuse's observation id *said*: itself, or the beginning of its SHA-256."""
    lower = said.lower()
    return lower if _HEX16.fullmatch(lower) else sha256(said.encode("utf-8", "replace")).hexdigest()[:16]


class LangfuseReader:
    """Reads bodies and rows. All methods raise InvalidInputError, which names what is wrong."""

    def __init__(self, normalizer: Normalizer) -> None:
        self._normalizer = normalizer

    def fragment(self, kind: str, body: Mapping[str, Any], told_ns: int, *, is_update: bool = False) -> Fragment:
        """The fragment in *body*, of a *kind* from `KINDS`; *body* itself names the type of an `observation`.

        A span update sets no type: it may end an observation of any.
        """
        if kind == "trace":
            return self._trace(body, told_ns)
        observation_id = _required(body, "id")
        trace_id = _text(body, "traceId") or observation_id  # Langfuse creates a trace for an observation without one
        start_ns, end_ns = _ns(body, "startTime"), _ns(body, "endTime")
        if kind == "event":
            end_ns = end_ns or start_ns or told_ns
        attributes = self._said_of_observation(body)
        said_type = _text(body, "type") if kind == "observation" else kind
        if said_type and not (is_update and kind == "span"):
            attributes[keys.LANGFUSE_TYPE] = said_type.lower()
        parent = _text(body, "parentObservationId")
        return Fragment(
            trace_id=trace_id_of(trace_id),
            told_ns=told_ns,
            span_id=span_id_of(observation_id),
            parent_span_id=span_id_of(parent) if parent else "",
            name=self._short(body, "name"),
            start_ns=start_ns,
            end_ns=end_ns,
            attributes=self._normalizer.scalars(attributes) or {},
        )

    def score(self, body: Mapping[str, Any], told_ns: int, otherwise_id: str = "") -> Score:
        """The score in *body*, told at *told_ns*; *otherwise_id* is its id if it has none."""
        name = self._short(body, "name")
        if not name:
            raise _wrong("name", "is missing")
        value, data_type = _value(body)
        subject = body.get("subject")
        of = _subject(subject) if isinstance(subject, dict) else body
        trace, observation, session = (_text(of, key) for key in ("traceId", "observationId", "sessionId"))
        if not (trace or observation or session or _text(of, "datasetRunId")):
            raise _wrong("traceId", "is missing: a score is of a trace, an observation, a session or a dataset run")
        if isinstance(value, str):
            value = self._normalizer.cut(value, _KEPT)
        said = self._normalizer.scalars({"value": value, "comment": self._short(body, "comment", _KEPT)}) or {}
        return Score(
            score_id=clean_text(_text(body, "id") or otherwise_id)[:_MOST_TEXT],
            name=self._normalizer.text(name),
            at=rfc3339_ms(_ns(body, "timestamp") or told_ns),
            data_type=data_type,
            value=said.get("value", ""),
            comment=str(said.get("comment", "")),
            trace_id=trace_id_of(trace) if trace else "",
            span_id=span_id_of(observation) if observation else "",
            task=self._normalizer.text(session[:_MOST_TEXT]),
            told_ns=told_ns,
        )

    def _trace(self, body: Mapping[str, Any], told_ns: int) -> Fragment:
        said = {
            keys.LANGFUSE_TRACE_NAME: self._short(body, "name"),
            keys.USER_ID: self._short(body, "userId"),
            keys.SESSION_ID: self._short(body, "sessionId"),
        }
        known = {key: text for key, text in said.items() if text}
        return Fragment(
            trace_id=trace_id_of(_required(body, "id")),
            told_ns=told_ns,
            attributes=self._normalizer.scalars(known) or {},
        )

    def _said_of_observation(self, body: Mapping[str, Any]) -> dict[str, Any]:
        said: dict[str, Any] = {
            keys.LANGFUSE_LEVEL: _text(body, "level"),
            keys.LANGFUSE_MESSAGE: self._short(body, "statusMessage", _MOST_VALUE),
            keys.LANGFUSE_INPUT: self._whole(body.get("input")),
            keys.LANGFUSE_OUTPUT: self._whole(body.get("output")),
            keys.LANGFUSE_MODEL: self._short(body, "model"),
            keys.LANGFUSE_PARAMETERS: self._whole(body.get("modelParameters")),
            keys.LANGFUSE_USAGE: self._whole(body.get("usageDetails") or _usage(body.get("usage"))),
            keys.LANGFUSE_COST: self._whole(_cost(body)),
            keys.LANGFUSE_TRACE_NAME: self._short(body, "traceName"),
            keys.USER_ID: self._short(body, "userId"),
            keys.SESSION_ID: self._short(body, "sessionId"),
        }
        return {key: value for key, value in said.items() if value not in (None, "")}

    def _whole(self, value: Any) -> str:
        """*value* as text, other types as JSON; long text is cut."""
        if value is None:
            return ""
        text = value if isinstance(value, str) else json_text(value)
        return text if len(text) <= _MOST_VALUE else self._normalizer.cut(text, _KEPT)

    def _short(self, body: Mapping[str, Any], field: str, most: int = _MOST_TEXT) -> str:
        return self._normalizer.cut(clean_text(_text(body, field)), most)


def ns_of(text: object, field: str) -> int:
    """The RFC 3339 time *text* in ns since the epoch; UTC if it has no offset. Raises InvalidInputError."""
    if not isinstance(text, str):
        raise _wrong(field, "is not text")
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return max(0, (moment - _EPOCH) // timedelta(microseconds=1) * 1000)
    except (ValueError, OverflowError) as exc:
        raise _wrong(field, f"is not a time: {text[:40]!r}") from exc


def _ns(body: Mapping[str, Any], field: str) -> int:
    value = body.get(field)
    return 0 if value is None else ns_of(value, field)


def _text(body: Mapping[str, Any], field: str) -> str:
    value = body.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _wrong(field, "is not text")
    return value


def _required(body: Mapping[str, Any], field: str) -> str:
    value = _text(body, field)
    if not value:
        raise _wrong(field, "is missing")
    return value


def _value(body: Mapping[str, Any]) -> tuple[Any, str]:
    """A score's value and data type; a missing type is inferred from the value, as Langfuse does."""
    value, data_type = body.get("value"), _text(body, "dataType").upper()
    is_number = isinstance(value, int | float)
    if not is_number and not isinstance(value, str):
        raise _wrong("value", "is neither number nor text")
    if not data_type:
        data_type = "BOOLEAN" if isinstance(value, bool) else "NUMERIC" if is_number else "CATEGORICAL"
    if data_type not in DATA_TYPES:
        raise _wrong("dataType", f"is {data_type[:20]!r}, not one of {', '.join(DATA_TYPES)}")
    if is_number is not (data_type in _NUMBERS):
        raise _wrong("value", f"does not go with dataType {data_type}")
    if data_type == "BOOLEAN":
        if value not in (0, 1):
            raise _wrong("value", "is neither 0 nor 1, as BOOLEAN needs it")
        value = bool(value)
    return value, data_type


def _subject(subject: Mapping[str, Any]) -> dict[str, Any]:
    """The subject of a pulled score, under the field names of a posted score."""
    kind, subject_id = _text(subject, "kind"), _text(subject, "id")
    names = {"trace": "traceId", "observation": "observationId", "session": "sessionId", "experiment": "datasetRunId"}
    named = {names[kind]: subject_id} if kind in names else {}
    return {"traceId": subject.get("traceId"), **named}


def _usage(usage: Any) -> dict[str, Any] | None:
    """Token counts from the older form `usage`, of Langfuse or OpenAI, under the names of `usageDetails`."""
    if not isinstance(usage, dict):
        return None
    names = {"input": ("input", "promptTokens", "prompt_tokens"), "output": ("output", "completionTokens")}
    names["output"] = (*names["output"], "completion_tokens")
    found = {
        name: next((usage[key] for key in given if usage.get(key) is not None), None) for name, given in names.items()
    }
    return {name: count for name, count in found.items() if count is not None} or None


def _cost(body: Mapping[str, Any]) -> Any:
    if body.get("costDetails"):
        return body["costDetails"]
    usage = body.get("usage")
    total = body.get("totalCost", usage.get("totalCost") if isinstance(usage, dict) else None)
    return {"total": total} if isinstance(total, int | float) and total > 0 else None


def _wrong(field: str, why: str) -> InvalidInputError:
    return InvalidInputError(f"{field} {why}", "the item was not taken", _FIX)
