"""OTLP requests as bytes: cut, checked and parsed without a change, whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from sidecar.errors import InvalidInputError, MalformedError, TooLargeError
from sidecar.receivers.otlp_wire import MAX_ITEMS, Rejected, cut, read_piece
from tests.otlp_requests import a_request, a_span, flat

_spans = st.builds(lambda name, size: a_span(name, trace_state="x" * size), st.text(max_size=5), st.integers(0, 300))
_scopes = st.builds(
    lambda spans, schema: ScopeSpans(spans=spans, schema_url=schema), st.lists(_spans, max_size=6), st.text(max_size=9)
)
_resources = st.builds(
    lambda scopes, schema: ResourceSpans(scope_spans=scopes, schema_url=schema),
    st.lists(_scopes, max_size=4),
    st.text(max_size=9),
)
requests = st.builds(lambda all_: ExportTraceServiceRequest(resource_spans=all_), st.lists(_resources, max_size=4))


def read(request: bytes) -> tuple[list[bytes], int, Rejected]:
    """The pieces' bytes, how many spans they have, and what was refused."""
    rejected = Rejected()
    pieces = [read_piece(part, rejected) for part in cut(request) if part]
    return [piece.data for piece in pieces], sum(piece.spans for piece in pieces), rejected


@given(requests, st.integers(0, 400), st.integers(0, 400))
def test_the_pieces_of_a_request_say_what_it_says(
    request: ExportTraceServiceRequest, piece_bytes: int, head_bytes: int
) -> None:
    """However it is cut, every span keeps its resource, its scope and its place."""
    data = request.SerializeToString()
    parts = [part for part in cut(data, piece_bytes, head_bytes) if part]
    assert flat(b"".join(parts)) == flat(request)


def test_pieces_are_small_where_they_can_be() -> None:
    """A request of many spans comes in pieces of about the size that was asked for."""
    data = a_request(*[a_span(f"span {number}") for number in range(2000)]).SerializeToString()
    sizes = [len(part) for part in cut(data, 4096)]
    assert len(data) // 4096 <= len(sizes) <= len(data) // 2048
    assert max(sizes) <= 4096 + 200


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing but the errors that doors know comes of them, whole or cut."""
    for piece_bytes in (0, 64, 10_000):
        try:
            for part in cut(data, piece_bytes):
                read_piece(part, Rejected())
        except InvalidInputError:
            pass


@given(requests, st.data())
def test_a_broken_request_is_read_or_refused(request: ExportTraceServiceRequest, data: st.DataObject) -> None:
    """One byte changed anywhere: the same."""
    whole = bytearray(request.SerializeToString())
    if whole:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        for part in cut(bytes(whole), 32):
            read_piece(part, Rejected())
    except InvalidInputError:
        pass


@pytest.mark.parametrize(
    "fields",
    [
        {"trace_id": b""},
        {"trace_id": bytes(16)},
        {"trace_id": b"short"},
        {"span_id": bytes(8)},
        {"span_id": b"123456789"},
        {"parent_span_id": b"12"},
        {"links": [Span.Link(trace_id=b"12")]},
    ],
)
def test_a_span_that_no_collector_takes_is_refused_alone(fields: dict[str, object]) -> None:
    """The others stay, and the first reason is kept."""
    good = [a_span("before"), a_span("after")]
    request = a_request(good[0], a_span("bad", **fields), good[1])
    parts, spans, rejected = read(request.SerializeToString())
    assert (spans, rejected.spans) == (2, 1)
    assert flat(b"".join(parts)) == flat(a_request(*good))
    assert "span 1 of its scope" in rejected.why


def test_a_span_that_is_not_utf_8_is_refused_alone() -> None:
    """What protobuf cannot read in one span costs that span, not the request."""
    request = a_request(a_span("good"), a_span("bad!"), a_span("too")).SerializeToString()
    parts, spans, rejected = read(request.replace(b"bad!", b"bad\xff"))
    assert (spans, rejected.spans, rejected.unreadable) == (2, 1, 1)
    assert [Span.FromString(span).name for _, _, span in flat(b"".join(parts))] == ["good", "too"]


def test_unknown_fields_are_kept() -> None:
    """A sender may be newer than we are: what we do not know is passed on."""
    request = a_request(*[a_span(f"span {number}", trace_state="x" * 100) for number in range(1000)])
    unknown = b"\xd2\x3f\x05hello"  # field 1018, of a kind that no version has
    request.resource_spans[0].MergeFromString(unknown)
    request.resource_spans[0].scope_spans[0].MergeFromString(unknown)
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.MergeFromString(unknown)
    parts, _, _ = read(request.SerializeToString())
    assert len(parts) > 1
    assert flat(b"".join(parts)) == flat(request)
    assert b"".join(parts).count(b"hello") == 1000 + 2 * len(parts)


def test_too_many_items_are_refused() -> None:
    """Two bytes can be a span of a hundred bytes in memory: their number is bounded, not only their size."""
    with pytest.raises(TooLargeError, match=str(MAX_ITEMS)):
        list(cut(b"\x0a\x00" * (MAX_ITEMS + 1)))


@pytest.mark.parametrize("data", [b"\x0b" * 60_000, b"\x0a\xff" * 30_000, b"\x80" * 60_000, b"\x02\x00" * 30_000])
def test_a_broken_frame_is_malformed(data: bytes) -> None:
    """Groups, lengths beyond the end, numbers without an end and field 0 are no OTLP."""
    with pytest.raises(MalformedError):
        list(cut(data))
