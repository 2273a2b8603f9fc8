"""What Langfuse's SDKs ask for at start and on the way: passed on to Langfuse, or answered so that they can go on.

Few paths, each by name: with a token for ingestion nobody reads the rest of a project through us.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final
from urllib.parse import unquote

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError
from sidecar.protocols import LangfuseAnswers
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
    """A path that is asked of Langfuse, if there is one; else *_otherwise* answers."""

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
    """`GET /api/public/projects`, by which SDKs check their keys: without Langfuse one project, the observer."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The projects of the keys."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        resp.media = {"data": [_PROJECT]}


class PromptsResource(_Relayed):
    """`GET /api/public/v2/prompts`: without Langfuse there are none."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """A page of them."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        resp.media = {"data": [], "meta": {"page": 1, "limit": 50, "totalItems": 0, "totalPages": 0}}


class PromptResource(_Relayed):
    """`GET /api/public/v2/prompts/{name}`: without Langfuse it is not there, and an SDK's fallback is used."""

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **_name: str) -> None:
        """The prompt."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        text = _NOT_HERE.format(what="prompts")
        resp.status = falcon.HTTP_404
        resp.media = {"message": text, "error": "LangfuseNotFoundError"}


class MediaResource(_Relayed):
    """`POST /api/public/media`: without Langfuse an SDK is told that what it has is there already."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Where to upload, or nowhere."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, body: bytes) -> None:
        resp.status = falcon.HTTP_201
        resp.media = {"mediaId": _media_id(body), "uploadUrl": None}


class MediaStatusResource(_Relayed):
    """`PATCH /api/public/media/{id}`: without Langfuse there was no upload."""

    async def on_patch(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **_id: str) -> None:
        """How the upload went."""
        await self._answer(req, resp)

    def _otherwise(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response, _body: bytes) -> None:
        resp.media = {}


def is_sendable(value: str) -> bool:
    """Whether a client may send *value* in a header."""
    return value.isascii() and value.isprintable()


def _shown_as(media: str) -> str:
    """The content type of Langfuse's answer here: it is data, and no page of ours, whatever it was called there."""
    kind = media.partition(";")[0].strip().lower()
    if not kind:
        return falcon.MEDIA_JSON
    return media if is_sendable(media) and kind in _DATA else "application/octet-stream"


def _target(req: falcon.asgi.Request) -> str:
    """Path and query as they came. Raises InvalidInputError for `..`: with our keys it would lead anywhere there.

    Decoded once more than by us, since a proxy and the server behind it may each do it; some read a backslash as `/`.
    """
    segments = unquote(req.path).replace("\\", "/").split("/")
    if "." in segments or ".." in segments:
        raise InvalidInputError("the path is not usable", "`.` and `..` are no names", "Ask for one thing by its name")
    raw: bytes = req.scope.get("raw_path") or req.path.encode()
    query = f"?{req.query_string}" if req.query_string else ""
    return raw.decode("latin-1").partition("?")[0] + query


def _media_id(body: bytes) -> str:
    """As Langfuse makes it: the beginning of the content's hash, which the SDK sends."""
    try:
        said: Any = msgspec.json.decode(body)
        text = str(said["sha256Hash"])
    except (msgspec.MsgspecError, KeyError, TypeError, UnicodeDecodeError):
        text = sha256(body).hexdigest()
    return text.replace("+", "-").replace("/", "_")[:22]
