"""`POST /v1/traces`: OTLP over HTTP, protobuf and JSON. Responses, errors too, use the request's encoding.

Source: OTLP specification, OTLP/HTTP.
"""

from __future__ import annotations

from typing import Any

import falcon
import falcon.asgi
import msgspec
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from sidecar.errors import InvalidInputError
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.otlp_attempts import Taken
from sidecar.receivers.otlp_receiver import OtlpIntake
from sidecar.receivers.otlp_wire import Rejected
from sidecar.receivers.rpc_status import status_of_http

PROTOBUF = "application/x-protobuf"
JSON = falcon.MEDIA_JSON


class OtlpTracesResource:
    """`POST /v1/traces`."""

    scope = "ingest"

    def __init__(self, intake: OtlpIntake, bodies: BodyReader) -> None:
        self.intake = intake
        self._bodies = bodies

    async def take(self, _req: falcon.asgi.Request, body: bytes, rejected: Rejected) -> Taken:
        """Process a request that was read."""
        return await self.intake.take(body, rejected)

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 once the request is on disk; `partial_success` reports rejected spans."""
        media = _media(req)
        try:
            if media not in (PROTOBUF, JSON):
                raise falcon.HTTPUnsupportedMediaType(description=f"Content-Type must be {PROTOBUF} or {JSON}")
            taken = await self._taken(req, media)
        except (InvalidInputError, falcon.HTTPUnsupportedMediaType):
            self.intake.invalid += 1
            raise
        resp.content_type, resp.data = _said(taken.response(), media)

    async def _taken(self, req: falcon.asgi.Request, media: str) -> Taken:
        with self._bodies.lease() as lease:
            body = await self._bodies.read(req, lease)
            rejected = Rejected()
            if media == JSON:
                body = await self.intake.json.protobuf(body, rejected)
                lease.take(len(body))
            return await self.take(req, body, rejected)

    def say_error(self, req: falcon.asgi.Request, status: int, text: str) -> tuple[str, bytes]:
        """The content type and body of an error: a `Status`."""
        return _error(req, status, text)


class OtherSignalResource:
    """`POST /v1/logs` and `/v1/metrics`: always refused."""

    scope = "ingest"

    def __init__(self, signal: str) -> None:
        self._signal = signal

    async def on_post(self, _req: falcon.asgi.Request, _resp: falcon.asgi.Response) -> None:
        """404, with what to do instead."""
        raise falcon.HTTPNotFound(description=not_taken(self._signal))

    def say_error(self, req: falcon.asgi.Request, status: int, text: str) -> tuple[str, bytes]:
        """The content type and body of an error: a `Status`."""
        return _error(req, status, text)


def not_taken(signal: str) -> str:
    """Why *signal* (`logs` or `metrics`) is refused, and what to do."""
    return (
        f"the observer takes traces only: point OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT at the collector, "
        f"or set OTEL_{signal.upper()}_EXPORTER=none"
    )


def _media(req: falcon.asgi.Request) -> str:
    return (req.content_type or "").partition(";")[0].strip().lower()


def _error(req: falcon.asgi.Request, status: int, text: str) -> tuple[str, bytes]:
    said = status_of_http(status, text)
    if _media(req) != PROTOBUF:
        return JSON, msgspec.json.encode({"error": text, "code": said.code, "message": said.message})
    return _said(said, PROTOBUF)


def _said(message: Message, media: str) -> tuple[str, bytes]:
    if media == JSON:
        said: dict[str, Any] = MessageToDict(message)
        return JSON, msgspec.json.encode(said)
    return PROTOBUF, message.SerializeToString()
