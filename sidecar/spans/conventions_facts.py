"""Extracts the facts of one received span in one pass over its attributes, and its outcome. Never raises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from sidecar.spans import conventions_table as table
from sidecar.spans.attributes import ERROR_TYPE_OTHER, FEATURES_PREFIX, OP_ID, OP_PREFIX
from sidecar.spans.conventions_values import integer, opened, said, value_of

Facts = dict[str, Any]

_KEYS = {**table.KEYS, OP_ID: (OP_ID, 0)}
_known = _KEYS.get
_MOST_EVENTS = 64
_MOST_NUMBER = 6  # digits of a message's index
_CODE = re.compile(r"[\w][\w.:/$-]{0,127}", re.ASCII)
_CLASS = re.compile(r"(?:.*[.:/$])?([A-Z_]\w*)", re.ASCII)
_MOST_COST = 1e12
_EXCEPTION = "exception"
_EVALUATION = "gen_ai.evaluation."
_PROMPT = tuple(table.PROMPT_KEYS)
_FAILED = Status.STATUS_CODE_ERROR


class Outcome(NamedTuple):
    """The outcome of an operation: *error* is None for success. *scores*: names and values of its evaluations."""

    error: str | None
    error_type: str | None
    scores: Sequence[tuple[str, Any]]


_GOOD = Outcome(None, None, ())


class Evaluation(NamedTuple):
    """One `gen_ai.evaluation.result` event."""

    name: str
    score: float | None
    label: str
    explanation: str
    error_type: str


def facts_of(span: Span) -> tuple[Facts, bool]:
    """The facts in the attributes of *span*, by their names in `conventions_table.KEYS`; the lowest rank wins.

    Also whether other attributes may be `named_fields`.
    """
    facts: Facts = {}
    ranks: dict[str, int] = {}
    has_named = False
    for attribute in span.attributes:
        key = attribute.key
        known = _known(key)
        if known is None:
            has_named = has_named or key.startswith(OP_PREFIX)
            continue
        fact, rank = known
        if fact in facts and ranks[fact] <= rank:
            continue
        value = attribute.value.string_value or value_of(attribute.value)  # most values are text
        if value is not None:
            facts[fact] = value
            ranks[fact] = rank
    return facts, has_named


def named_fields(span: Span) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields (`conventions_table.NAMED`) and features that *span* names itself; empty or ill-typed ones are not."""
    fields: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for attribute in span.attributes:
        key = attribute.key
        if not key.startswith(OP_PREFIX):
            continue
        value = value_of(attribute.value)
        name = key[len(OP_PREFIX) :]
        if key.startswith(FEATURES_PREFIX):
            features[key[len(FEATURES_PREFIX) :]] = value
        elif type(value) in table.NAMED.get(name, ()) and (isfinite(value) if name == "count" else value):
            fields[name] = value
    return fields, features


def outcome(span: Span, facts: Facts, convention: table.Convention) -> Outcome:
    """The outcome of *span*, from its level, status, `error.type`, HTTP status and evaluation events."""
    if not span.events:
        return _GOOD if not _has_failed(span, facts) else Outcome(*_error(span, facts), ())
    results = list(evaluations(span))
    scores = [pair for result in results for pair in _scores(result)]
    if _has_failed(span, facts):
        error, error_type = _error(span, facts)
        return Outcome(error, error_type, scores)
    for result in results:
        failed_itself = convention is table.EVALUATION and result.error_type
        if result.label.lower() in table.FAILING_LABELS or failed_itself:
            why = f": {result.explanation}" if result.explanation else ""
            said_of_it = result.label or result.error_type
            return Outcome(f"{result.name}: {said_of_it}{why}", code(result.error_type or "evaluation"), scores)
    return Outcome(None, None, scores)


def _has_failed(span: Span, facts: Facts) -> bool:
    level = facts.get("level")
    if isinstance(level, str) and level:
        return level.lower() in table.FAILING_LEVELS
    if span.status.code == _FAILED or facts.get("error_type"):
        return True
    status = integer(facts["status"]) if "status" in facts else None
    return status is not None and status >= 400


def _error(span: Span, facts: Facts) -> tuple[str, str]:
    """Message and code. Exceptions' messages come before the status: some instrumentations put stack traces there."""
    raised = _exception(span) if span.events else {}
    status = facts.get("status")
    known = facts.get("error_type") or raised.get("exception.type") or (status if status is not None else "")
    error_type = code(str(known))
    message = (
        facts.get("message")
        or raised.get("exception.message")
        or span.status.message
        or (f"HTTP {status}" if status is not None else "")
        or (error_type if error_type != ERROR_TYPE_OTHER else "failed")
    )
    return str(message), error_type


def _exception(span: Span) -> dict[str, Any]:
    """The attributes of the last recorded exception; in streaming calls many other events may precede it."""
    for event in reversed(span.events[-_MOST_EVENTS:]):
        if event.name == _EXCEPTION:
            return {each.key: value_of(each.value) for each in event.attributes[:_MOST_EVENTS]}
    return {}


def code(said_type: str) -> str:
    """*said_type* as a bounded code: a status, or a class name without module; `_OTHER` if it is neither."""
    if not _CODE.fullmatch(said_type):
        return ERROR_TYPE_OTHER
    found = _CLASS.fullmatch(said_type)
    return found[1] if found else said_type


def evaluations(span: Span) -> Iterator[Evaluation]:
    """Yield the evaluation results among the last events of *span*."""
    for event in span.events[-_MOST_EVENTS:]:
        if event.name != table.EVALUATION_EVENT:
            continue
        told = {each.key.removeprefix(_EVALUATION): value_of(each.value) for each in event.attributes[:_MOST_EVENTS]}
        score = told.get("score.value")
        yield Evaluation(
            str(told.get("name") or "evaluation")[:128],
            score if isinstance(score, int | float) else None,
            str(told.get("score.label") or ""),
            str(told.get("explanation") or ""),
            str(told.get("error.type") or ""),
        )


def _scores(result: Evaluation) -> Iterator[tuple[str, Any]]:
    if result.score is not None:
        yield f"evaluation.{result.name}", result.score
    if result.label:
        yield f"evaluation.{result.name}.label", result.label


def asked_text(span: Span, given: Any) -> str:
    """The last message to a model, from *given*, or from attributes that hold one message each."""
    last, text = -1, ""
    if given is None or (isinstance(given, str) and given[:1] in ("{", "[")):  # too long to decode, or truncated
        for attribute in span.attributes:
            key = attribute.key
            if key.startswith(_PROMPT) and key.endswith("content"):
                number = _number(key)
                if number >= last:
                    last, text = number, attribute.value.string_value or text
    return text or said(given)


def _number(key: str) -> int:
    """The message index in `<prefix><n>.…`; -1 if there is none."""
    for prefix in _PROMPT:
        if key.startswith(prefix):
            digits = key[len(prefix) :].partition(".")[0]
            if len(digits) <= _MOST_NUMBER and digits.isascii() and digits.isdigit():
                return int(digits)
    return -1


def subject(span: Span, operation: str, facts: Facts) -> Any:
    """What the operation acts on: a tool, model, agent or data source; else the span's name."""
    if operation in table.MODEL_OPERATIONS:
        given = opened(facts.get("parameters")) if "model" not in facts else None  # a failed call may name it here only
        return given.get("model") or "" if isinstance(given, dict) else facts.get("model", "")
    if operation == "execute_tool":
        return facts.get("tool") or facts.get("entity") or span.name
    if operation in ("invoke_agent", "create_agent", "plan"):
        return facts.get("agent") or facts.get("entity") or _without(span.name, operation)
    return facts.get("data_source") or facts.get("entity") or _without(span.name, operation)


def _without(name: str, operation: str) -> str:
    """The span's *name* without a leading *operation*."""
    return name[len(operation) :].strip() if name.startswith(operation) else name


def tokens(facts: Facts) -> dict[str, int]:
    """Input and output token counts, from their own attributes or from Langfuse's usage details."""
    if "usage" not in facts and "input_tokens" not in facts and "output_tokens" not in facts:
        return {}
    usage = opened(facts.get("usage"))
    details = usage if isinstance(usage, dict) else {}
    counts = {
        table.INPUT_TOKENS: facts.get("input_tokens", details.get("input", details.get("prompt_tokens"))),
        table.OUTPUT_TOKENS: facts.get("output_tokens", details.get("output", details.get("completion_tokens"))),
    }
    return {key: count for key, said_count in counts.items() if (count := integer(said_count)) is not None}


def cost(facts: Facts) -> dict[str, float]:
    """The cost of the call in USD: a number, or the total (else the sum) of Langfuse's cost details."""
    if "cost" not in facts:
        return {}
    said_cost = opened(facts["cost"])
    if isinstance(said_cost, dict):
        parts = [value for value in said_cost.values() if type(value) in (int, float)]
        said_cost = said_cost.get("total", sum(parts) if parts else None)
    if type(said_cost) not in (int, float) or not 0 < said_cost < _MOST_COST:
        return {}
    return {table.COST: float(said_cost)}
