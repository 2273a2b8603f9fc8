"""JSON that would become much larger than its text: counted before it is read, then read one item at a time."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import falcon.asgi
import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis.strategies import text
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from sidecar.clock import SystemClock
from sidecar.errors import MalformedError, TooLargeError
from sidecar.model import Fragment, LangfuseTold, Score
from sidecar.normalize import Normalizer
from sidecar.receivers.bodies import BodyReader, ByteBudget
from sidecar.receivers.json_items import MOST_VALUES, InTurns, bound_values, items_of, without_lone_surrogates
from sidecar.receivers.langfuse_events import LangfuseReader
from sidecar.receivers.langfuse_receiver import MAX_BYTES, LangfuseCounters, ScoresResource
from sidecar.receivers.otlp_json import protobuf_request
from sidecar.receivers.otlp_wire import MAX_ITEMS, Rejected
from sidecar.redaction import Redactor
from tests.langfuse_batches import INGESTION, SCORES, TRACE
from tests.observers import client, observer

SPANS = b'{"resourceSpans":[{"scopeSpans":[{"spans":['
GOOD_SPAN = b'{"name":"good","traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b173"}'


@pytest.mark.parametrize(
    ("path", "begun", "count"),
    [
        ("/v1/traces", SPANS, 1_700_000),
        ("/api/public/otel/v1/traces", SPANS, 1_700_000),
        (INGESTION, b'{"batch":[', 1_700_000),
        (SCORES, b"[", 1_700_000),
    ],
)
async def test_what_would_become_too_much_is_refused_before_it_is_read(
    tmp_path: Path, path: str, begun: bytes, count: int
) -> None:
    """Twenty kilobytes on the wire. The JSON does not even end: a reader would have called it malformed."""
    body = gzip.compress(begun + b"{}," * count, 1)
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    async with observer(tmp_path) as running, client(running) as http:
        answer = await http.post(path, content=body, headers=headers)
        assert (answer.status_code, "over" in answer.json()["error"]) == (413, True)
        assert running.budget.used == 0


async def test_commas_in_texts_count_as_values_do() -> None:
    """What is counted is an upper bound, found without reading."""
    await bound_values(b"[,{" * 10, 30)
    with pytest.raises(TooLargeError):
        await bound_values(b"[,{" * 10, 29)


def test_too_many_spans_are_refused_before_one_is_converted() -> None:
    """As in protobuf; they are counted while they are text."""
    rejected = Rejected()
    with pytest.raises(TooLargeError, match=str(MAX_ITEMS)):
        protobuf_request(SPANS + b"7," * MAX_ITEMS + b"7]}]}]}", rejected)
    assert rejected.spans == 0


def test_a_span_of_too_many_values_is_refused_alone() -> None:
    """It would be objects all at once; the others are taken."""
    rejected = Rejected()
    large = b'{"attributes":[' + b"{}," * MOST_VALUES + b"{}]}"
    data = protobuf_request(SPANS + large + b"," + GOOD_SPAN + b"]}]}]}", rejected)
    (resource_spans,) = ExportTraceServiceRequest.FromString(data).resource_spans
    assert [span.name for span in resource_spans.scope_spans[0].spans] == ["good"]
    assert (rejected.spans, str(MOST_VALUES) in rejected.why) == (1, True)


def test_one_span_at_a_time_is_objects() -> None:
    """The peak of memory is the text and the protobuf message, not what the whole text would be as objects."""
    attributes = ",".join(f'{{"key":"k{number}","value":{{"intValue":{number}}}}}' for number in range(40))
    span = GOOD_SPAN[:-1] + b',"attributes":[' + attributes.encode() + b"]}"
    body = SPANS + b",".join([span] * 120) + b"]}]}]}"
    tracemalloc.start()
    try:
        data = protobuf_request(body, Rejected())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(data) * 2 < peak < len(body)  # as objects: eight times the text


def test_a_large_request_is_held_once_beside_its_text() -> None:
    """It is written in fields of a mebibyte, each with its resource and scope; the first to the last span is there."""
    large = b',"status":{"message":"' + b"x" * 2**18 + b'"}}'
    spans = b",".join(GOOD_SPAN[:-1].replace(b"good", b"span %d" % number) + large for number in range(48))
    body = b'{"resourceSpans":[{"resource":{"droppedAttributesCount":1},"scopeSpans":[{"scope":{"name":"s"},"spans":['
    body += spans + b']},{"scope":{"name":"empty"}}]}]}'
    tracemalloc.start()
    try:
        data = protobuf_request(body, Rejected())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.6 * len(data)
    request = ExportTraceServiceRequest.FromString(data)
    assert names(request) == [f"span {number}" for number in range(48)]
    assert {each.resource.dropped_attributes_count for each in request.resource_spans} == {1}
    scopes = [scope.scope.name for each in request.resource_spans for scope in each.scope_spans]
    assert (len(scopes) > 2, set(scopes[:-1]), scopes[-1]) == (True, {"s"}, "empty")


class Arriving:
    """A request whose body of *count* chunks arrives chunk by chunk."""

    content_length: int | None = None
    headers: Mapping[str, str] = {}

    def __init__(self, count: int) -> None:
        self.stream = self._chunks(count)

    async def _chunks(self, count: int) -> AsyncIterator[bytes]:
        for number in range(count):
            yield bytes([number % 256]) * 2**16


@pytest.mark.parametrize("is_zipped", [False, True])
async def test_a_body_is_held_once(is_zipped: bool) -> None:
    """However many chunks it comes in, or is decompressed to."""
    bodies, zipped = BodyReader(ByteBudget(2**25), max_bytes=2**25), gzip.compress(bytes(2**24), 1)
    tracemalloc.start()
    try:
        with bodies.lease() as lease:
            request: Any = Arriving(256)
            body = await (bodies.unzipped(zipped, lease) if is_zipped else bodies.read(request, lease))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(body) == 2**24
    assert peak < 1.6 * len(body)


def converted(body: bytes) -> tuple[ExportTraceServiceRequest, Rejected]:
    rejected = Rejected()
    return ExportTraceServiceRequest.FromString(protobuf_request(body, rejected)), rejected


def names(request: ExportTraceServiceRequest) -> list[str]:
    return [span.name for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]


def test_a_lone_surrogate_becomes_a_replacement_character() -> None:
    """In a span as in a resource: it costs nothing; pairs and escaped backslashes stay what they are."""
    odd = GOOD_SPAN.replace(b"good", rb"a\ud800b\uDFFF\ud83d\ude00\\ud800")
    resource = b'{"attributes":[{"key":"k","value":{"stringValue":"\\udc00"}}]}'
    body = SPANS.replace(b'{"scope', b'{"resource":' + resource + b',"scope') + odd + b"," + GOOD_SPAN + b"]}]}]}"
    request, rejected = converted(body)
    assert (names(request), rejected.spans) == (["a\ufffdb\ufffd\N{GRINNING FACE}\\ud800", "good"], 0)
    assert request.resource_spans[0].resource.attributes[0].value.string_value == "\ufffd"


@given(text())
def test_other_texts_are_left_as_they_are(given_text: str) -> None:
    """Whatever escapes they are written with."""
    for written in (json.dumps(given_text), json.dumps(given_text, ensure_ascii=False)):
        said = json.loads(without_lone_surrogates(written.encode("utf-8", "surrogatepass")))
        assert said == given_text


@pytest.mark.parametrize(
    "bad",
    [
        b'{"resource":{"attributes":7},"scopeSpans":[{"spans":[{},{}]}]}',
        b'{"resource":{"droppedAttributesCount":-1},"scopeSpans":[{"spans":[{}]},{"spans":[{}]}]}',
        b'{"scopeSpans":[{"scope":{"name":7},"spans":[{},{}]}]}',
        b'{"scopeSpans":[{"spans":[{"name":7},{"attributes":[{"key":"n","value":{"intValue":"9223372036854775808"}}]}]}]}',
        b'{"scopeSpans":[7,{"spans":7}]}',
    ],
)
def test_what_is_wrong_costs_the_spans_that_it_is_about(bad: bytes) -> None:
    """A resource costs its own, a scope its own, a span itself; the others of the request are taken."""
    good = SPANS.removeprefix(b'{"resourceSpans":[') + GOOD_SPAN + b"]}]}"
    request, rejected = converted(b'{"resourceSpans":[' + good + b"," + bad + b"," + good + b"]}")
    assert names(request) == ["good", "good"]
    assert (rejected.spans, rejected.unreadable, bool(rejected.why)) == (2, 2, True)


def test_items_stay_text_until_they_are_read() -> None:
    """A list of anything; what the fast reader refuses is read at once, within the bound of one item."""
    assert [bytes(item) for item in items_of(b'[1, {"a": [2]}]')] == [b"1", b'{"a": [2]}']
    assert items_of(b'["\\ud800"]') == ["\ud800"]
    assert items_of(b"null") is None
    with pytest.raises(TooLargeError):
        items_of(b"[" + b"{}," * MOST_VALUES)
    with pytest.raises(MalformedError):
        items_of(b"[{},")


async def test_an_item_that_cannot_be_read_is_an_error_in_its_place() -> None:
    """Small or large, the others are read."""
    large = b'"' + b"x" * 2**17 + b'"'
    items = [msgspec.Raw(each) for each in (b"1", b'"\xff"', large, large.replace(b"x", b"\xff"), b"[2]")]
    values = [value async for value in InTurns().values(items)]
    assert [type(value) for value in values] == [int, MalformedError, str, MalformedError, list]


class Noting(LangfuseReader):
    """A reader of scores that notes in which turn of the event loop each was read."""

    def __init__(self) -> None:
        super().__init__(Normalizer(Redactor()))
        self.turn = 0
        self.turns: list[int] = []

    async def count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    def score(self, body: Mapping[str, Any], at_ns: int, otherwise_id: str = "") -> Score:
        self.turns.append(self.turn)
        return super().score(body, at_ns, otherwise_id)


class Inbox:
    """A `LangfuseInbox` that keeps what it is told."""

    def __init__(self) -> None:
        self.scores: list[Score] = []

    async def take(self, told: LangfuseTold) -> None:
        self.scores += told.scores

    async def observed(self, fragments: Sequence[Fragment]) -> None:
        raise NotImplementedError

    async def scored(self, scores: Sequence[Score]) -> None:
        raise NotImplementedError


async def test_other_tasks_run_while_scores_are_read() -> None:
    """A list of thousands takes seconds: between two of them others have their turn."""
    reader, inbox = Noting(), Inbox()
    bodies = BodyReader(ByteBudget(2**24), max_bytes=MAX_BYTES)
    door = ScoresResource(reader, inbox, bodies, SystemClock(), counters=LangfuseCounters(), forward=None)
    app: Any = falcon.asgi.App()
    app.add_route("/scores", door)
    scores = [{"traceId": TRACE, "name": "n", "value": 0.5, "comment": "it was so so " * 40} for _ in range(2000)]
    counting = asyncio.create_task(reader.count_turns())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://here") as http:
        answer = await http.post("/scores", json=scores)
    counting.cancel()
    assert (answer.status_code, len(inbox.scores)) == (202, 2000)
    assert len(set(reader.turns)) > 3
