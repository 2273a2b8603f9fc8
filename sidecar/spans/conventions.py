"""Turns received spans into ops: finds the spans that are operations and reads their attributes by `conventions_table`.

`receivers.otlp_receiver` (all OTLP doors, Langfuse's too) calls it as its `SpanReader`; ops go on to the journal. Most
spans are no operations, and reading attributes is the expensive part. So after a span that is none, the raw bytes of
the rest of its scope, or of the next span, are searched for the few deciding keys first.

An op's id is derived from its span: the same span, delivered again, is the same op.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import isfinite
from typing import Any, NamedTuple, Protocol

import msgspec
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from sidecar.clock import rfc3339_ms
from sidecar.model import MOST_DURATION_MS, SCHEMA_VERSION, ObservedOp
from sidecar.normalize import INT64_MAX, INT64_MIN, MAX_ENTRIES, Normalizer, scalar, texts_of
from sidecar.protocols import Clock
from sidecar.spans import conventions_table as table
from sidecar.spans.attributes import ERROR_TYPE_OTHER, LANGFUSE_EVENT, OP_ID, OP_PREFIX
from sidecar.spans.clock_skew import ended_by, taken_by
from sidecar.spans.conventions_facts import (
    Facts,
    Outcome,
    asked_text,
    cost,
    evaluations,
    facts_of,
    named_fields,
    outcome,
    subject,
    tokens,
)
from sidecar.spans.conventions_marks import is_marked
from sidecar.spans.conventions_values import called_with, duration_of, op_id_of, opened, said, scalars_of, value_of
from sidecar.spans.gateway_urls import Called, GatewayUrls
from sidecar.spans.op_span import op_from_attributes

_INPUT_CHARACTERS = 200
_OUTPUT_CHARACTERS = 100
_ERROR_CHARACTERS = 8192
_NAME_CHARACTERS = 128
_ID_CHARACTERS = 256
_CLIENT = Span.SPAN_KIND_CLIENT
_SOME = 4  # spans in a scope from which on searching the whole scope pays
_MOST_SCORES = 20


class EndpointNames(Protocol):
    """Bounds the number of endpoint names. Implementation: `gateway.route_template.Templates`."""

    def of(self, target: bytes) -> str:
        """The template of an HTTP request's target."""
        ...

    def bounded(self, name: str) -> str:
        """*name*, or a coarser one if too many are known."""
        ...


class _Content(NamedTuple):
    """What is specific to an operation: its endpoint, its input and output as text, and its features."""

    endpoint: str
    asked: str
    answered: str
    features: dict[str, Any]


class SpanConventions:
    """A `SpanReader` driven by the table. *gateways*, called once, returns the URLs agents call: gateway and proxy.

    *names* bounds the endpoint names, so that hostile span names cannot create unlimited endpoints.
    """

    def __init__(
        self, normalizer: Normalizer, gateways: Callable[[], Iterable[str]], names: EndpointNames, clock: Clock
    ) -> None:
        self._normalizer = normalizer
        self._cut = normalizer.cut
        self._gateways = GatewayUrls(gateways)
        self._names = names
        self._clock = clock

    def ops_of(self, resource_spans: ResourceSpans) -> Iterator[ObservedOp | None]:
        """Yield an op for each span that is an operation and None for each other span, in order."""
        service = _service(resource_spans)
        for scope_spans in resource_spans.scope_spans:
            waiting = iter(scope_spans.spans)
            op: ObservedOp | None = None
            for span in waiting:
                op = self.op_of(span, service)
                yield op
                if op is None and len(scope_spans.spans) >= _SOME and not is_marked(scope_spans):
                    yield from (None for _ in waiting)
                break
            for span in waiting:
                # Operations come close together: after a span that is none, search the next before reading it.
                op = self.op_of(span, service) if op is not None or is_marked(span) else None
                yield op

    def op_of(self, span: Span, service: str = "") -> ObservedOp | None:
        """The op, in the normal form, of *span*; None if it is no operation, or an incomplete observer op span."""
        facts, has_named = facts_of(span)
        if OP_ID in facts:
            return self._own(span)
        convention, operation, called = self._kind(span, facts)
        if not operation:
            return None
        if called is not None:
            content = self._http(facts, called)
        elif convention is table.EVALUATION:
            content = self._evaluation(span)
        else:
            content = self._operation(span, operation, facts)
        extra = self._extra(convention, operation, facts, service)
        if has_named:
            named, features = named_fields(span)
            facts.update(named)
            content = content._replace(features={**content.features, **scalars_of(features, self._cut)})
        return self._op(span, convention, facts, content, extra)

    def _kind(self, span: Span, facts: Facts) -> tuple[table.Convention, str, Called | None]:
        """What makes *span* an operation: convention, name ("" if it is none), and what it calls at the gateway."""
        for key, convention in table.KINDS.items():
            word = facts.get(key)
            if isinstance(word, str) and word:
                operation = convention.kinds.get(word.lower(), convention.other)
                if operation:
                    return convention, word[:_NAME_CHARACTERS] if operation == "*" else operation, None
        called = self._gateways.called(facts["url"]) if span.kind == _CLIENT and "url" in facts else None
        if called is not None:
            return table.HTTP, table.HTTP_CALL, called
        if span.events and any(event.name == table.EVALUATION_EVENT for event in span.events[:MAX_ENTRIES]):
            return table.EVALUATION, table.EVALUATE, None
        return table.HTTP, "", None

    def _operation(self, span: Span, operation: str, facts: Facts) -> _Content:
        """Reads any operation but HTTP calls and evaluations; named `{operation} {subject}`, like GenAI spans."""
        text = self._cut(str(subject(span, operation, facts)), _NAME_CHARACTERS)
        given = opened(facts.get("arguments", facts.get("input")))
        features: dict[str, Any] = {}
        if operation in table.MODEL_OPERATIONS:
            asked = asked_text(span, given)
            features = self._model_features(text, facts)
        else:
            given = called_with(given)
            asked = said(given) if not isinstance(given, dict) else msgspec.json.encode(given).decode()
            features = scalars_of(given, self._cut)
        name = f"{operation} {text}" if text else operation
        label = text
        if operation in table.MODEL_OPERATIONS:
            label = f"{name}:" if asked else name
        answered = said(opened(facts.get("output")))
        return _Content(self._names.bounded(name), f"{label} {asked}".strip(), answered, features)

    def _model_features(self, model: str, facts: Facts) -> dict[str, Any]:
        given = opened(facts.get("parameters"))
        given = given if isinstance(given, dict) else {}
        features: dict[str, Any] = {"model": model} if model else {}
        for name in table.PARAMETERS:
            value = facts.get(name, given.get(name))
            if isinstance(value, bool | int | float):
                features[name] = value
        return features

    def _http(self, facts: Facts, called: Called) -> _Content:
        path, query = called
        method = str(facts.get("method", ""))[:16]
        target = f"{path}?{query}" if query else path
        status = facts.get("status")
        return _Content(
            self._names.of(path.encode()),
            f"{method} {target}".strip(),
            f"HTTP {status}" if status is not None else "",
            scalars_of(self._normalizer.query(query), self._cut),
        )

    def _evaluation(self, span: Span) -> _Content:
        first = next(iter(evaluations(span)), None)
        name = f"{table.EVALUATE} {self._cut(first.name, _NAME_CHARACTERS) if first is not None else ''}".strip()
        return _Content(self._names.bounded(name), self._cut(span.name, _INPUT_CHARACTERS), "", {})

    def _op(
        self, span: Span, convention: table.Convention, facts: Facts, content: _Content, extra: dict[str, Any]
    ) -> ObservedOp:
        ended = span.end_time_unix_nano or span.start_time_unix_nano
        taken = ended_by(self._clock.time_ns(), ended)
        result = outcome(span, facts, convention)
        error = self._cut(result.error, _ERROR_CHARACTERS) if result.error is not None else None
        answered = f"ERROR: {error}" if error is not None else content.answered or "ok"
        texts: dict[str, Any] = {
            "endpoint": content.endpoint,
            "input_summary": self._cut(content.asked, _INPUT_CHARACTERS),
            "output_summary": self._cut(answered, _OUTPUT_CHARACTERS),
        }
        if error is not None:
            texts["error"], texts["error_type"] = error, result.error_type or ERROR_TYPE_OTHER
        for name in table.NAMED_TEXTS:
            value = facts.get(name)
            if value not in (None, ""):
                texts[name] = self._short(value if isinstance(value, str) else str(value))
        ours, given = _ours_and_given(content.features)
        plain = self._normalizer.harmless([*texts.values(), *_texts_in(extra), *texts_of(given)])  # all texts at once
        if not plain:
            extra = self._cleaned(texts, extra)
        return ObservedOp(
            timestamp=rfc3339_ms(taken),
            success=error is None,
            duration_ms=duration_of(span.start_time_unix_nano, ended),
            source=convention.source,
            v=SCHEMA_VERSION,
            op_id=op_id_of(span.trace_id, span.span_id, taken),
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_span_id=span.parent_span_id.hex() or None,
            event_id=_observation(span) if convention.source == "langfuse" else None,
            features={**(self._normalizer.scalars(given, plain=plain) or {}), **ours} or None,
            extra={**extra, **self._scores(result)} if result.scores else extra,
            count=facts.get("count"),
            **texts,
        )

    def _cleaned(self, texts: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        """Clean and redact *texts* in place, and return *extra* cleaned; all in one pass over the texts."""
        words = {f"extra.{name}": value for name, value in extra.items() if isinstance(value, str)}
        together = {**texts, **words}
        self._normalizer.clean(together, list(together.values()))
        texts.update((name, together[name]) for name in texts)
        return {name: together.get(f"extra.{name}", value) for name, value in extra.items()}

    def _extra(self, convention: table.Convention, operation: str, facts: Facts, service: str) -> dict[str, Any]:
        extra: dict[str, Any] = {table.CONVENTION: convention.name}
        if convention is not table.HTTP:
            extra[table.OPERATION] = operation
        if service:
            extra[table.SERVICE] = self._short(service)
        for name, key in table.EXTRAS.items():
            if name in facts and (value := self._short(facts[name])) is not None:
                extra[key] = value
        extra.update(tokens(facts))
        extra.update(cost(facts))
        return extra

    def _scores(self, result: Outcome) -> dict[str, Any]:
        scores = {self._short(name): self._short(score) for name, score in result.scores[:_MOST_SCORES]}
        return self._normalizer.scalars(scores) or {}

    def _short(self, value: Any) -> Any:
        """*value* as a scalar, long text cut."""
        known = value if isinstance(value, str) else scalar(value)
        return self._cut(known, _ID_CHARACTERS) if isinstance(known, str) else known

    def _own(self, span: Span) -> ObservedOp | None:
        """The op mirrored by an observer's own span: unchanged, except if that observer's clock is ahead of ours."""
        attributes = {each.key: value_of(each.value) for each in span.attributes if each.key.startswith(OP_PREFIX)}
        ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex() or None
        try:
            op = op_from_attributes(attributes, *ids)
            if op is None:
                return None
            op = msgspec.convert(msgspec.structs.asdict(op), ObservedOp)  # checks types: attributes may be of any type
            op = taken_by(self._clock.time_ns(), op)
        except (TypeError, ValueError, OverflowError):  # a required field is missing or malformed
            return None
        return self._normalizer.op(op) if 0 <= op.duration_ms <= MOST_DURATION_MS else None


def _observation(span: Span) -> str:
    """The event id that identifies a Langfuse observation, through whichever door it comes."""
    return f"{LANGFUSE_EVENT}{span.trace_id.hex()}:{span.span_id.hex()}"


def _ours_and_given(features: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split *features*: plain numbers under names of ours, which need no redaction; and the rest."""
    ours = {name: features[name] for name in table.NUMBERS if type(features.get(name)) in (int, float)}
    if not ours:
        return ours, features
    given = {name: value for name, value in features.items() if name not in ours}
    return {name: value for name, value in ours.items() if _is_plain(value)}, given


def _texts_in(extra: dict[str, Any]) -> list[str]:
    return [value for value in extra.values() if isinstance(value, str)]


def _is_plain(value: float) -> bool:
    """Whether *value* is an int64 or a finite float, which the normal form keeps as it is."""
    return INT64_MIN <= value <= INT64_MAX if isinstance(value, int) else isfinite(value)


def _service(resource_spans: ResourceSpans) -> str:
    for each in resource_spans.resource.attributes:
        if each.key == "service.name":
            return str(each.value.string_value)
    return ""
