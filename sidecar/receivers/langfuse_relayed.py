"""Langfuse endpoints that SDKs read (projects, prompts, media): relayed to Langfuse, or answered so that SDKs go on.

Only few paths, each listed: an ingestion token must not open the rest of a Langfuse project.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError
from sidecar.protocols_langfuse import LangfuseAnswers
from sidecar.receivers.bodies import BodyReader

_DATA: Final = frozenset([falcon.MEDIA_JSON, falcon.MEDIA_TEXT.partition(";")[0], "application/problem+json"])
_NAME: Final = "lakehouse-observer"
_PROJECT: Final = {
    "id": _NAME,
    "name": _NAME,
    "organization": {"id": _NAME, "name": _NAME},
    "metadata": {},
    "retentionDays": None,
}
_NOT_HERE: Final = (
    "the observer keeps no {what}: set LANGFUSE_FORWARD_URL to have it ask your Langfuse server, or give a fallback"
)


class _Relayed:
    """A path that is relayed to Langfuse; without Langfuse, `_otherwise` answers."""

    scope = "ingest"

    def __init__(self, answers: LangfuseAnswers | None, bodies: BodyReader) -> None:
        self._answers = answers
        self._bodies = bodies

    async def _answer(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        target = _target(req)
        with self._bodies.lease() as lease:
            body = await self._bodies.read(req, lease)
            if self._answers is None:
                self._otherwise(req, resp, body)
                return
            media = req.content_type or ""
            said = await self._answers.ask(req.method, target, media if is_sendable(media) else "", body)
        resp.status = said.status
        if said.error:
            raise falcon.HTTPError(said.status, description=said.error)
        resp.content_type, resp.data = _shown_as(said.media), said.body
        resp.set_header("X-Content-Type-Options", "nosniff")

    def _otherwise(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, body: bytes) -> None:
        raise NotImplementedError


class ProjectsResource(_Relayed):
    """`GET /api/public/projects`, with which SDKs check their keys; without Langfuse: one project, the observer."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The projects of the keys."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        resp.media = {"data": [_PROJECT]}


class PromptsResource(_Relayed):
    """`GET /api/public/v2/prompts`; without Langfuse there are none."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """A page of prompts."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        resp.media = {"data": [], "meta": {"page": 1, "limit": 50, "totalItems": 0, "totalPages": 0}}


class PromptResource(_Relayed):
    """`GET /api/public/v2/prompts/{name}`; without Langfuse 404, so that an SDK uses its fallback."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **_name: str) -> None:
        """One prompt."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        text = _NOT_HERE.format(what="prompts")
        resp.status = falcon.HTTP_404
        resp.media = {"message": text, "error": "LangfuseNotFoundError"}


class MediaResource(_Relayed):
    """`POST /api/public/media`; without Langfuse the SDK is told that the content exists already."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The upload URL, or null."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, body: bytes) -> None:
        resp.status = falcon.HTTP_201
        resp.media = {"mediaId": _media_id(body), "uploadUrl": None}


class MediaStatusResource(_Relayed):
    """`PATCH /api/public/media/{id}`; without Langfuse there was no upload."""

    async def on_patch(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **_id: str) -> None:
        """Report the outcome of an upload."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        resp.media = {}


def is_sendable(value: str) -> bool:
    """Whether a client may send *value* in a header."""
    return value.isascii() and value.isprintable()


def _shown_as(media: str) -> str:
    """The content type for relaying: only known data types, so that a browser never renders it as our page."""
    kind = media.partition(";")[0].strip().lower()
    if not kind:
        return falcon.MEDIA_JSON
    return media if is_sendable(media) and kind in _DATA else "application/octet-stream"


def _target(req: falcon.asgi.Request) -> str:
    """Path and query as sent. Raises InvalidInputError for `..`, with which our keys would open any path.

    The path is decoded once more, as a proxy and the server may each decode it; some treat a backslash as `/`.
    """
    segments = unquote(req.path).replace("\\", "/").split("/")
    if "." in segments or ".." in segments:
        raise InvalidInputError("the path is not usable", "`.` and `..` are not allowed", "Name the resource itself")
    raw: bytes = req.scope.get("raw_path") or req.path.encode()
    query = f"?{req.query_string}" if req.query_string else ""
    return raw.decode("latin-1").partition("?")[0] + query


def _media_id(body: bytes) -> str:
    """The media id as Langfuse makes it: the beginning of the content hash, which the SDK sends."""
    try:
        said: Any = msgspec.json.decode(body)
        text = str(said["sha256Hash"])
    except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError):
        text = sha256(body).hexdigest()
    return text.replace("+", "-").replace("/", "_")[:22]
