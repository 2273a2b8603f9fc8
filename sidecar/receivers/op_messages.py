"""Conversion of `ObservedOp` and related messages to protobuf and back (`observer.proto`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from sidecar.call_fields import facts_of, names_of
from sidecar.model import Incident, ObservedOp, Scalar
from sidecar.model_learning import Advice, AdviceItem, AdviceQuery, PlaybookEntry, Range, Term
from sidecar.pb.v1 import observer_pb2 as pb

_GIVEN = frozenset({"op_id", "span_id", "v"})  # assigned by the observer, whatever a sender says
_NUMBERS = frozenset({"duration_ms", "count", "applied_at_turn"})
_MAPS = frozenset({"features", "extra"})
_TERMS = frozenset({"when", "set"})
_KINDS: dict[type, str] = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}


def event_of(message: pb.ObservedOp) -> dict[str, Any]:
    """The fields set in *message*, as an event of `POST /event`."""
    event: dict[str, Any] = {"success": message.success}
    for field, value in message.ListFields():
        name = field.name
        if name in _GIVEN:
            continue
        if name in _MAPS:
            event[name] = {key: _scalar(each) for key, each in value.items()}
        elif name in _NUMBERS:
            event[name] = _scalar(value)
        else:
            event[name] = value
    return event


def op_message(op: ObservedOp) -> pb.ObservedOp:
    """*op*, in the normal form, as a protobuf message."""
    message = pb.ObservedOp()
    for name in ObservedOp.__struct_fields__:
        value = getattr(op, name)
        if value is None:
            continue
        if name in _MAPS:
            target = getattr(message, name)
            for key, each in value.items():
                _set(target[key], each)
        elif name in _NUMBERS:
            _set(getattr(message, name), value)
        else:
            setattr(message, name, value)
    return message


def incident_message(incident: Incident) -> pb.Incident:
    """*incident* as a protobuf message."""
    message = pb.Incident()
    _fill(message, incident)
    if incident.finding is not None:
        _fill(message.finding, incident.finding)
    return message


def playbook_message(entry: PlaybookEntry) -> pb.PlaybookEntry:
    """*entry* as a protobuf message."""
    message = pb.PlaybookEntry()
    _fill(message, entry)
    return message


def advice_query_of(message: pb.GetAdviceRequest, clean: Callable[[str], str], most: int, default: int) -> AdviceQuery:
    """The advice query of *message*; *clean* normalises texts like those of ops."""
    facts = {clean(key): _scalar(each) for key, each in message.facts.items()}
    return AdviceQuery(
        endpoint=clean(message.endpoint),
        facts=facts_of(
            {key: clean(each) if isinstance(each, str) else each for key, each in facts.items() if each is not None}
        ),
        task=clean(message.task) if message.HasField("task") else None,
        given=names_of(map(clean, message.given)),
        limit=min(message.limit or default, most),
        door="grpc",
    )


def advice_message(advice: Advice) -> pb.GetAdviceResponse:
    """*advice* as a protobuf message."""
    message = pb.GetAdviceResponse(exposure_id=advice.exposure_id, depends_on=advice.depends_on, hints=advice.hints)
    for item in advice.advice:
        _fill(message.advice.add(), item)
    return message


def _fill(message: Any, struct: msgspec.Struct) -> None:
    """Copy *struct*'s fields into *message*; fields that its schema does not have yet are left out."""
    known = message.DESCRIPTOR.fields_by_name
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if value is None or name not in known or isinstance(value, msgspec.Struct):
            continue
        if name in _TERMS and isinstance(struct, PlaybookEntry | AdviceItem):
            for key, each in value.items():
                _set_term(getattr(message, name)[key], each)
        elif name == "evidence" and isinstance(value, list):
            message.evidence.extend(pb.SpanRef(trace_id=ref[0], span_id=ref[1]) for ref in value)
        elif isinstance(value, dict):
            getattr(message, name).update(value)
        elif isinstance(value, list):
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)


def _set_term(message: Any, term: Term) -> None:
    if term is None:
        message.left_out = True
    elif isinstance(term, Range):
        message.range.SetInParent()
        _fill(message.range, term)
    else:
        _set(message, term)


def _scalar(message: Any) -> Scalar | None:
    kind = message.WhichOneof("kind")
    value: Scalar | None = getattr(message, kind) if kind else None
    return value


def _set(message: Any, value: Scalar) -> None:
    setattr(message, _KINDS[type(value)], value)
