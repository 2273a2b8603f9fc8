"""Langfuse's own doors, so that its SDKs need nothing but `LANGFUSE_BASE_URL`: spans, ingestion events, scores.

What is told goes to the `LangfuseInbox`, spans the way of all OTLP; all of it goes on to Langfuse itself where that is
set. An answer comes once both have it on disk. Errors have the two names that Langfuse's clients look for.
Source: Langfuse public API, ingestion, scores, OpenTelemetry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError, MalformedError, OverloadedError, TooLargeError
from sidecar.ids import new_id
from sidecar.model import Fragment, LangfuseTold, Score
from sidecar.normalize import clean_text
from sidecar.protocols import Clock, LangfuseForward, LangfuseInbox, Promise
from sidecar.receivers.bodies import BodyReader, Lease, parse_json
from sidecar.receivers.langfuse_events import KINDS, LangfuseReader, ns_of
from sidecar.receivers.langfuse_relayed import is_sendable
from sidecar.receivers.otlp_http import PROTOBUF, OtlpTracesResource
from sidecar.receivers.otlp_receiver import OtlpIntake, Taken
from sidecar.receivers.otlp_wire import Rejected

API: Final = "/api/public"
MAX_BYTES: Final = 5 * 2**20  # Langfuse itself takes 3.5 MB
_MOST_ITEMS: Final = 10_000
_SMALL: Final = 64 * 1024  # bytes of JSON that are read at once
_TURN_S: Final = 0.0015
_MOST_ID: Final = 256
_SDK_LOG: Final = "sdk-log"
_TRACES: Final = f"{API}/otel/v1/traces"


class LangfuseCounters:
    """What came: observation and trace `events`, `scores`, SDK `logs`, and what was `invalid` among them."""

    def __init__(self) -> None:
        self.events = 0
        self.scores = 0
        self.logs = 0
        self.invalid = 0


class LangfuseTracesResource(OtlpTracesResource):
    """`POST /api/public/otel/v1/traces`: OTLP as at `/v1/traces`, and on to Langfuse where *forward* leads there."""

    def __init__(self, intake: OtlpIntake, bodies: BodyReader, forward: LangfuseForward | None) -> None:
        super().__init__(intake, bodies)
        self._forward = forward

    async def take(self, req: falcon.asgi.Request, body: bytes, rejected: Rejected) -> Taken:
        """Learn from the request, and put it on its way."""
        way = _Way(self._forward, _headers(req, PROTOBUF)) if self._forward is not None else None
        return await self.intake.take(body, rejected, way)


class _Way:
    """A `RequestSpool` that leads to Langfuse, with the *headers* of one request."""

    def __init__(self, forward: LangfuseForward, headers: dict[str, str]) -> None:
        self._forward = forward
        self._headers = headers

    def put(self, request: bytes, spans: int) -> Promise | None:
        """See `RequestSpool`."""
        return self._forward.put(_TRACES, self._headers, request, spans)


class _Door:
    """What the doors for JSON share."""

    scope = "ingest"
    path = ""

    def __init__(
        self,
        reader: LangfuseReader,
        inbox: LangfuseInbox,
        bodies: BodyReader,
        clock: Clock,
        *,
        counters: LangfuseCounters,
        forward: LangfuseForward | None,
    ) -> None:
        self._reader = reader
        self._inbox = inbox
        self._bodies = bodies
        self._clock = clock
        self._counters = counters
        self._forward = forward

    async def _take(self, req: falcon.asgi.Request, body: bytes, told: LangfuseTold, items: int) -> None:
        """Return once *told*, and *body* for Langfuse, are on disk. Raises RetryableError."""
        await self._inbox.take(told)
        if self._forward is not None:
            promise = self._forward.put(self.path, _headers(req, falcon.MEDIA_JSON), body, items)
            if promise is None:
                raise OverloadedError("the spool cannot keep up", "too much waits for Langfuse", "Send it again later")
            await promise.wait()
        self._counters.scores += len(told.scores)

    def _now_ns(self) -> int:
        return self._clock.time_ns()

    def say_error(self, _req: falcon.asgi.Request, _status: int, text: str) -> tuple[str, bytes]:
        """The content type and body of an error, as Langfuse's clients read it."""
        return falcon.MEDIA_JSON, msgspec.json.encode({"message": text, "error": text})


class IngestionResource(_Door):
    """`POST /api/public/ingestion`: a batch of events; 207 says of each whether it was taken."""

    path = f"{API}/ingestion"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """207 once what was taken is on disk."""
        with self._bodies.lease() as lease:
            body, batch = await self._batch(req, lease)
            batch_read = EventBatch(self._reader, self._now_ns())
            time = asyncio.get_running_loop().time
            began = time()
            for item in batch:
                batch_read.read(item)
                if time() - began > _TURN_S:
                    await asyncio.sleep(0)
                    began = time()
            await self._take(req, body, batch_read.told(), len(batch))
        self._counters.events += len(batch_read.fragments)
        self._counters.logs += batch_read.logs
        self._counters.invalid += len(batch_read.errors)
        resp.status = falcon.HTTP_207
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode({"successes": batch_read.successes, "errors": batch_read.errors})

    async def _batch(self, req: falcon.asgi.Request, lease: Lease) -> tuple[bytes, list[Any]]:
        body = await self._bodies.read(req, lease)
        said = await asyncio.to_thread(parse_json, body) if len(body) > _SMALL else parse_json(body)
        batch = said.get("batch") if isinstance(said, dict) else None
        if not isinstance(batch, list):
            raise MalformedError("the body has no batch", "`batch` is to be a list of events", 'Send {"batch": […]}')
        return body, _bounded(batch)


class ScoresResource(_Door):
    """`POST /api/public/scores`: one score, or, as newer SDKs send them, a list."""

    path = f"{API}/scores"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 with the id of one, 202 for a list, 207 if some of it were refused; once the others are on disk."""
        with self._bodies.lease() as lease:
            body = await self._bodies.read(req, lease)
            said = parse_json(body)
            alone = isinstance(said, dict)
            if not isinstance(said, dict | list):
                raise MalformedError("the body is no score", "it is neither object nor list", "Send a score, or a list")
            scores: list[Score] = []
            errors: list[dict[str, str]] = []
            for item in [said] if isinstance(said, dict) else _bounded(said):
                try:
                    scores.append(self._score(item))
                except InvalidInputError as exc:
                    if alone:
                        self._counters.invalid += 1
                        raise
                    errors.append({"message": str(exc)})
            await self._take(req, body, LangfuseTold(scores=scores), len(scores) + len(errors))
        self._counters.invalid += len(errors)
        resp.content_type = falcon.MEDIA_JSON
        if alone:
            resp.data = msgspec.json.encode({"id": scores[0].score_id})
        elif errors:
            resp.status = falcon.HTTP_207
            resp.data = msgspec.json.encode({"accepted": len(scores), "rejected": len(errors), "errors": errors})
        else:
            resp.status = falcon.HTTP_202
            resp.data = b'{"message":"Accepted"}'

    def _score(self, item: Any) -> Score:
        return self._reader.score(_object(item, "a score"), self._now_ns(), new_id())


class LangfuseHealthResource:
    """`GET /api/public/health`: as Langfuse says it."""

    scope = None

    def __init__(self, version: str) -> None:
        self._data = msgspec.json.encode({"status": "OK", "version": version})

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Always the same."""
        resp.content_type, resp.data = falcon.MEDIA_JSON, self._data


class EventBatch:
    """Reads the events of a batch one by one."""

    def __init__(self, reader: LangfuseReader, now_ns: int) -> None:
        self._reader = reader
        self._now_ns = now_ns
        self.fragments: list[Fragment] = []
        self.scores: list[Score] = []
        self.logs = 0
        self.successes: list[dict[str, Any]] = []
        self.errors: list[dict[str, Any]] = []

    def told(self) -> LangfuseTold:
        """All that was read."""
        return LangfuseTold(fragments=self.fragments, scores=self.scores)

    def read(self, item: Any) -> None:
        """Take in one event, or say what is wrong with it. Never raises for what it holds."""
        event_id = ""
        try:
            event = _object(item, "an event")
            said_id = event.get("id")
            if not isinstance(said_id, str) or not said_id:
                raise _wrong("id is missing")
            event_id = clean_text(said_id[:_MOST_ID])
            self._event(event, event_id)
            self.successes.append({"id": event_id, "status": 201})
        except InvalidInputError as exc:
            error = {"id": event_id, "status": 400, "message": "Invalid request data", "error": str(exc)}
            self.errors.append(error)

    def _event(self, event: Mapping[str, Any], event_id: str) -> None:
        said_type = event.get("type")
        kind, _, what = said_type.partition("-") if isinstance(said_type, str) else ("", "", "")
        told_ns = ns_of(event["timestamp"], "timestamp") if event.get("timestamp") else self._now_ns
        if said_type == _SDK_LOG:
            self.logs += 1
            return
        body = _object(event.get("body"), "body")
        if said_type == "score-create":
            self.scores.append(self._reader.score(body, told_ns, event_id))
        elif kind in KINDS and what in ("create", "update"):
            self.fragments.append(self._reader.fragment(kind, body, told_ns, is_update=what == "update"))
        else:
            raise _wrong(f"type {said_type!r:.40} is not known")


def _bounded(items: list[Any]) -> list[Any]:
    if len(items) > _MOST_ITEMS:
        raise TooLargeError(f"{len(items)} items in one request", f"at most {_MOST_ITEMS} are read", "Send fewer")
    return items


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(f"{what} is no object")
    return value


def _wrong(what: str) -> InvalidInputError:
    return InvalidInputError(what, "the item was not taken", "See Langfuse's API reference")


def _headers(req: falcon.asgi.Request, media: str) -> dict[str, str]:
    """What of the request's headers Langfuse is to see: what its SDKs say of themselves, but no credentials.

    None that cannot be sent on: it would hold up all that waits behind it in the spool.
    """
    told = {name: value.strip() for name, value in req.headers.items() if name.startswith("x-langfuse-")}
    sendable = {name: value for name, value in told.items() if "key" not in name and is_sendable(value)}
    return {"content-type": media, **sendable}
