"""Langfuse's own endpoints (spans, ingestion events, scores), so that its SDKs only need `LANGFUSE_BASE_URL`.

Events and scores go to the `LangfuseInbox`, spans go the way of all OTLP; with forwarding on, all of it also goes to
Langfuse. The response is sent once both have it on disk. Error bodies have both fields that Langfuse's clients read.
Source: Langfuse public API, ingestion, scores, OpenTelemetry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from typing import Any, Final, TypeVar

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import OverloadedError, TooLargeError
from sidecar.model import LangfuseTold
from sidecar.protocols import Clock, Promise
from sidecar.protocols_langfuse import LangfuseForward, LangfuseInbox
from sidecar.receivers.bodies import BodyReader, Lease
from sidecar.receivers.json_items import InTurns, bound_values
from sidecar.receivers.langfuse_batches import EventBatch, ScoreBatch, events_of, scores_of
from sidecar.receivers.langfuse_events import LangfuseReader
from sidecar.receivers.langfuse_relayed import is_sendable
from sidecar.receivers.otlp_attempts import Taken
from sidecar.receivers.otlp_http import PROTOBUF, OtlpTracesResource
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_wire import Rejected

_Split = TypeVar("_Split")

API: Final = "/api/public"
MAX_BYTES: Final = 5 * 2**20  # Langfuse itself takes 3.5 MB
MOST_VALUES: Final = 1_000_000  # per request
_MOST_ITEMS: Final = 10_000
_SMALL: Final = 64 * 1024  # bytes; larger bodies are split in a thread
_TRACES: Final = f"{API}/otel/v1/traces"


class LangfuseCounters:
    """Counts received observation and trace `events`, `scores`, SDK `logs`, dataset `run_items`, `invalid` items."""

    def __init__(self) -> None:
        self.events = 0
        self.scores = 0
        self.logs = 0
        self.run_items = 0
        self.invalid = 0


class LangfuseTracesResource(OtlpTracesResource):
    """`POST /api/public/otel/v1/traces`: OTLP as at `/v1/traces`, also forwarded to Langfuse if *forward* is set."""

    def __init__(self, intake: OtlpIntake, bodies: BodyReader, forward: LangfuseForward | None) -> None:
        super().__init__(intake, bodies)
        self._forward = forward

    async def take(self, req: falcon.asgi.Request, body: bytes, rejected: Rejected) -> Taken:
        """Take the request, and forward it if that is set."""
        way = _Way(self._forward, _headers(req, PROTOBUF)) if self._forward is not None else None
        return await self.intake.take(body, rejected, way)


class _Way:
    """A `RequestSpool` that forwards to Langfuse with the *headers* of one request."""

    def __init__(self, forward: LangfuseForward, headers: dict[str, str]) -> None:
        self._forward = forward
        self._headers = headers

    def put(self, request: bytes, spans: int) -> Promise | None:
        """See `RequestSpool`."""
        return self._forward.put(_TRACES, self._headers, request, spans)


class _Door:
    """The common part of the JSON endpoints."""

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
        self._in_turns = InTurns()

    async def _take(self, req: falcon.asgi.Request, body: bytes, told: LangfuseTold, items: int) -> None:
        """Return once *told*, and *body* for Langfuse, are on disk. Raises RetryableError."""
        await self._inbox.take(told)
        if self._forward is not None:
            promise = self._forward.put(self.path, _headers(req, falcon.MEDIA_JSON), body, items)
            if promise is None:
                raise OverloadedError("the spool cannot keep up", "too much waits for Langfuse", "Send it again later")
            await promise.wait()
        self._counters.scores += len(told.scores)

    async def _read(
        self, req: falcon.asgi.Request, lease: Lease, split: Callable[[bytes], _Split]
    ) -> tuple[bytes, _Split]:
        """The body, and its items as *split* returns them, still as text. Raises TooLargeError for too many."""
        body = await self._bodies.read(req, lease)
        await bound_values(body, MOST_VALUES)
        said = await asyncio.to_thread(split, body) if len(body) > _SMALL else split(body)
        if isinstance(said, list) and len(said) > _MOST_ITEMS:
            raise TooLargeError(f"{len(said)} items in one request", f"at most {_MOST_ITEMS} are read", "Send fewer")
        return body, said

    async def _read_each(self, items: Iterable[Any], batch: EventBatch | ScoreBatch) -> None:
        async with aclosing(self._in_turns.values(items)) as values:
            async for value in values:
                batch.read(value)

    def _now_ns(self) -> int:
        return self._clock.time_ns()

    def say_error(self, _req: falcon.asgi.Request, _status: int, text: str) -> tuple[str, bytes]:
        """The content type and body of an error, in the form that Langfuse's clients read."""
        return falcon.MEDIA_JSON, msgspec.json.encode({"message": text, "error": text})


class IngestionResource(_Door):
    """`POST /api/public/ingestion`: a batch of events; 207 tells for each whether it was accepted."""

    path = f"{API}/ingestion"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """207 once the accepted items are on disk."""
        with self._bodies.lease() as lease:
            body, items = await self._read(req, lease, events_of)
            batch = EventBatch(self._reader, self._now_ns())
            await self._read_each(items, batch)
            await self._take(req, body, batch.told(), len(items))
        self._counters.events += len(batch.fragments)
        self._counters.logs += batch.logs
        self._counters.run_items += batch.run_items
        self._counters.invalid += len(batch.errors)
        resp.status = falcon.HTTP_207
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode({"successes": batch.successes, "errors": batch.errors})


class ScoresResource(_Door):
    """`POST /api/public/scores`: one score, or, from newer SDKs, a list."""

    path = f"{API}/scores"

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 with the id of one score, 202 for a list, 207 if some were refused; once the others are on disk."""
        with self._bodies.lease() as lease:
            body, said = await self._read(req, lease, scores_of)
            alone = isinstance(said, dict)
            batch = ScoreBatch(self._reader, self._now_ns())
            await self._read_each([said] if isinstance(said, dict) else said, batch)
            self._counters.invalid += len(batch.errors)
            if alone and batch.errors:
                raise batch.errors[0]
            await self._take(req, body, batch.told(), len(batch.scores) + len(batch.errors))
        resp.content_type = falcon.MEDIA_JSON
        if alone:
            resp.data = msgspec.json.encode({"id": batch.scores[0].score_id})
        elif batch.errors:
            resp.status = falcon.HTTP_207
            resp.data = msgspec.json.encode(batch.answer())
        else:
            resp.status = falcon.HTTP_202
            resp.data = b'{"message":"Accepted"}'


class LangfuseHealthResource:
    """`GET /api/public/health`, in Langfuse's form."""

    scope = None

    def __init__(self, version: str) -> None:
        self._data = msgspec.json.encode({"status": "OK", "version": version})

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Always the same response."""
        resp.content_type, resp.data = falcon.MEDIA_JSON, self._data

    on_head = on_get


def _headers(req: falcon.asgi.Request, media: str) -> dict[str, str]:
    """The headers to forward to Langfuse: what its SDKs tell about themselves, without credentials.

    Headers that cannot be sent are dropped: such a record would block everything behind it in the spool.
    """
    told = {name: value.strip() for name, value in req.headers.items() if name.startswith("x-langfuse-")}
    sendable = {name: value for name, value in told.items() if "key" not in name and is_sendable(value)}
    return {"content-type": media, **sendable}
