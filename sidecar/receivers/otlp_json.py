"""Converts OTLP/JSON requests to protobuf. They follow the protobuf JSON mapping, except for ids, which are hex.

Spans are decoded one at a time: 20 MiB of JSON at once would become a gigabyte of objects. The request is written once,
in fields of a mebibyte.
Source: OTLP specification, JSON Protobuf encoding: hex ids, integer enums, lowerCamelCase, unknown fields ignored.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any, Final

import msgspec
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError, EncodeError, Message
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from sidecar.errors import InvalidInputError, MalformedError
from sidecar.receivers.json_items import bound_values, items_of, read_value, without_lone_surrogates
from sidecar.receivers.otlp_wire import CHILDREN, RESOURCE_SPANS, ItemBound, Rejected, delimited

MOST_VALUES: Final = 1_500_000
"""Bound on the values of one request: about 20 MiB of ordinary attributes; 41 MiB if each two values form an item."""
_WRONG = (ParseError, DecodeError, EncodeError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
_IDS = ("traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id")
_FIELD_BYTES: Final = 2**20
_MOST_HEADS: Final = 20  # what repeated heads add is at most a twentieth
_HEADS: Final = ("resource", "scope", "schemaUrl", "schema_url")
_LISTS: Final = ("resourceSpans", "resource_spans", "scopeSpans", "scope_spans", "spans")

_Level: Final = msgspec.defstruct("_Level", [(name, msgspec.Raw, msgspec.Raw()) for name in (*_HEADS, *_LISTS)])
_levels: Final = msgspec.json.Decoder(_Level)


class JsonRequests:
    """Converts requests in a thread, one at a time, as each may need much memory, and all need the GIL."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def protobuf(self, body: bytes, rejected: Rejected) -> bytes:
        """Like `protobuf_request`, after checking bounds."""
        await bound_values(body, MOST_VALUES)
        async with self._turn:
            return await asyncio.to_thread(protobuf_request, body, rejected)


def protobuf_request(body: bytes, rejected: Rejected) -> bytes:
    """The serialised request for JSON *body*; invalid spans are counted in *rejected*, each alone.

    Lone surrogates, which protobuf cannot hold, become U+FFFD.

    Raises MalformedError, TooLargeError. Slow (0.1 ms per span), so run it in a thread.
    """
    bound = ItemBound()
    request = BytesIO()
    for resource in _objects(_level(body), bound, "resourceSpans", "resource_spans"):
        for part in _resource_spans(resource, bound, rejected):
            request.write(part)
    if rejected.unreadable and not request.tell():  # it would be taken for a repeated empty request
        raise _malformed(rejected.why)
    return request.getvalue()


def _resource_spans(text: Any, bound: ItemBound, rejected: Rejected) -> Iterator[bytes]:
    """Fields `resource_spans` of a request, several if large; none if the resource is wrong, which costs its spans."""
    scopes: list[Any] = []
    try:
        level = _level(text)
        scopes = _objects(level, bound, "scopeSpans", "scope_spans")
        head = _head(ResourceSpans(), level)
    except MalformedError as exc:
        _reject(scopes, bound, rejected, exc)
        return
    parts = (part for scope in scopes for part in _scope_spans(scope, bound, rejected))
    yield from _fields(RESOURCE_SPANS, head, parts)


def _scope_spans(text: Any, bound: ItemBound, rejected: Rejected) -> Iterator[bytes]:
    """Fields `scope_spans`, several if large; none if the scope is wrong, which costs its spans."""
    try:
        level = _level(text)
        head = _head(ScopeSpans(), level)
        spans = _objects(level, bound, "spans")
    except MalformedError as exc:
        _reject([text], bound, rejected, exc)
        return
    yield from _fields(CHILDREN, head, _spans(spans, rejected))


def _fields(number: int, head: bytes, children: Iterable[bytes]) -> Iterator[bytes]:
    """*children* in one field, or in several of about `_FIELD_BYTES`, each with *head*: one would be copied whole."""
    most = max(_FIELD_BYTES, _MOST_HEADS * len(head))
    data = bytearray(head)
    is_whole = True
    for child in children:
        if len(data) > len(head) and len(data) + len(child) > most:
            field, data = delimited(number, data), bytearray(head)  # before the yield, or both would stay meanwhile
            is_whole = False
            yield field
        data += child
    if is_whole or len(data) > len(head):
        field, data = delimited(number, data), bytearray()
        yield field


def _spans(texts: Iterable[Any], rejected: Rejected) -> Iterator[bytes]:
    """Fields `spans`, without those that are wrong."""
    for text in texts:
        try:
            span = _span(text)
        except (*_WRONG, InvalidInputError) as exc:
            rejected.unreadable += 1
            rejected.add(_why(exc))
        else:
            yield delimited(CHILDREN, span)


def _reject(scopes: list[Any], bound: ItemBound, rejected: Rejected, why: MalformedError) -> None:
    """Count the spans in *scopes* as rejected; one if there is no telling how many they are."""
    spans = 0
    for scope in scopes:
        with suppress(MalformedError):
            spans += len(_objects(_level(scope), bound, "spans"))
    for _ in range(spans or 1):
        rejected.unreadable += 1
        rejected.add(str(why)[:200])


def _span(text: Any) -> bytes:
    said = read_value(text)
    links = [_with_ids(link) for link in said.get("links") or ()]
    span = ParseDict({**_with_ids(said), "links": links}, Span(), ignore_unknown_fields=True)
    data: bytes = span.SerializeToString()
    return data


def _with_ids(said: dict[str, Any]) -> dict[str, Any]:
    """*said* with its hex ids in base64, protobuf's JSON form of bytes. Raises InvalidInputError, TypeError."""
    return {**said, **{key: _base64_of(key, said[key]) for key in _IDS if said.get(key)}}


def _base64_of(key: str, hex_id: str) -> str:
    try:
        return base64.b64encode(bytes.fromhex(hex_id)).decode()
    except ValueError as exc:
        why = "it is not hexadecimal, as ids are in OTLP/JSON"
        raise InvalidInputError(f"{key} is {hex_id[:40]!r}", why, "Do not send it in base64") from exc


def _why(exc: Exception) -> str:
    return (str(exc) if isinstance(exc, InvalidInputError) else f"{type(exc).__name__}: {exc}")[:200]


def _head(message: Message, level: Mapping[str, Any]) -> bytes:
    """*message* serialised with the fields of *level*, without children. Raises MalformedError, TooLargeError."""
    said = {name: read_value(level[name]) for name in _HEADS if level.get(name) is not None}
    try:
        ParseDict(said, message, ignore_unknown_fields=True)
        data: bytes = message.SerializeToString()
    except _WRONG as exc:
        raise _malformed(_why(exc)) from exc
    return data


def _level(text: Any) -> Mapping[str, Any]:
    """The object in *text*, its known members still as text. Raises MalformedError, TooLargeError."""
    if isinstance(text, bytes | msgspec.Raw):
        level = _members(text)
        if level is None:
            text = without_lone_surrogates(bytes(text))  # which the fast decoder rejects, wherever they are
            level = _members(text)
        if level is not None:
            return level
    said = read_value(text)
    if not isinstance(said, dict):
        raise _malformed("it is not an object")
    return said


def _members(text: bytes | msgspec.Raw) -> Mapping[str, Any] | None:
    """The known members of the object in *text*; None if the fast decoder rejects it."""
    try:
        level = _levels.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    said_of = {name: getattr(level, name) for name in (*_HEADS, *_LISTS)}
    return {name: said for name, said in said_of.items() if memoryview(said)}


def _objects(level: Mapping[str, Any], bound: ItemBound, *names: str) -> list[Any]:
    """The list under the first present one of *names*. Raises MalformedError if it is no list, TooLargeError."""
    items: Any = next((found for name in names if (found := items_of(level.get(name))) is not None), [])
    if not isinstance(items, list):
        raise _malformed(f"{names[0]} is not a list of objects")
    bound.add(len(items))
    return items


def _malformed(why: str) -> MalformedError:
    return MalformedError("the body is not an OTLP request in JSON", why, "See OTLP's JSON Protobuf encoding")
