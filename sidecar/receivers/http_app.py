"""The Falcon application: routes, guards, and one place where errors become answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import falcon
import falcon.asgi
import msgspec
import structlog

from sidecar.errors import (
    ConflictError,
    InvalidInputError,
    MalformedError,
    ObserverError,
    RetryableError,
    TooLargeError,
)
from sidecar.receivers.guards import Guard

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 1
App: TypeAlias = "falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]"


def create_app(routes: Mapping[str, object], guard: Guard | None) -> App:
    """An application serving *routes* (path → resource); every error body is JSON with `error`."""
    app: App = falcon.asgi.App(middleware=[guard] if guard is not None else [])
    app.req_options.auto_parse_qs_csv = False
    app.req_options.keep_blank_qs_values = True
    app.set_error_serializer(_serialize)
    app.add_error_handler(ObserverError, _observer_error)
    app.add_error_handler(Exception, _unexpected)
    for path, resource in routes.items():
        app.add_route(path, resource)
    return app


def _serialize(_req: falcon.asgi.Request, resp: falcon.asgi.Response, exc: falcon.HTTPError) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode({"error": str(exc.description or exc.title or exc.status)})


async def _observer_error(
    _req: falcon.asgi.Request, resp: falcon.asgi.Response, exc: ObserverError, _params: dict[str, str]
) -> None:
    resp.status = _status(exc)
    if isinstance(exc, RetryableError):
        resp.set_header("Retry-After", str(RETRY_AFTER_S))
    resp.content_type = falcon.MEDIA_JSON
    resp.data = msgspec.json.encode({"error": str(exc)})


def _status(exc: ObserverError) -> str:
    match exc:
        case MalformedError():
            return falcon.HTTP_400
        case TooLargeError():
            return falcon.HTTP_413
        case ConflictError():
            return falcon.HTTP_409
        case InvalidInputError():
            return falcon.HTTP_422
        case RetryableError():
            return falcon.HTTP_503
    return falcon.HTTP_500


async def _unexpected(
    req: falcon.asgi.Request, resp: falcon.asgi.Response, exc: Exception, _params: dict[str, str]
) -> None:
    log.error("request.failed", path=req.path[:200], exc_info=exc)
    resp.status = falcon.HTTP_500
    resp.content_type = falcon.MEDIA_JSON
    resp.data = b'{"error":"the observer failed on this request; its log says why"}'
