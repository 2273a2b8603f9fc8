"""The Falcon application: routes, guards, and the one place where errors become responses.

Error bodies are JSON with `error`, unless a resource has its own form (`say_error`), as OTLP does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import falcon
import falcon.asgi
import msgspec
import structlog

from sidecar.errors import (
    ConflictError,
    InvalidInputError,
    MalformedError,
    NotKnownError,
    ObserverError,
    RetryableError,
    TooLargeError,
)
from sidecar.receivers.guards import Guard

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 1
_SHOWN: Final = 80  # characters of a request that an error repeats
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_NOT_OUR_VERSION: Final = msgspec.json.encode({"error": "this port speaks HTTP/1.1 and HTTP/1.0: send one of these"})
App: TypeAlias = "falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]"


def create_app(routes: Mapping[str, object], guard: Guard | None) -> App:
    """An application that serves *routes* (path → resource); error bodies are JSON with `error`."""
    app: App = _VersionedApp(middleware=[guard] if guard is not None else [])
    app.req_options.auto_parse_qs_csv = False
    app.req_options.keep_blank_qs_values = True
    errors = _Errors(routes)
    app.set_error_serializer(errors.serialize)
    app.add_error_handler(ObserverError, errors.observer_error)
    app.add_error_handler(Exception, errors.unexpected)
    for path, resource in routes.items():
        app.add_route(path, resource)
    return app


class _VersionedApp(falcon.asgi.App):  # type: ignore[type-arg]  # subscripted, it is no class at run time
    """Refuses other versions of HTTP before Falcon sees them: it would raise, outside of its error handlers."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # type: ignore[override]  # WSGI's there
        if scope.get("http_version") in _VERSIONS:
            await super().__call__(scope, receive, send)
        else:
            await _refuse_version(send)


async def _refuse_version(send: Any) -> None:
    length = str(len(_NOT_OUR_VERSION)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 505, "headers": headers})
    await send({"type": "http.response.body", "body": _NOT_OUR_VERSION})


class _Errors:
    """Turns errors into responses, in the form of the resource where they occurred."""

    def __init__(self, routes: Mapping[str, object]) -> None:
        self._say = {path: say for path, each in routes.items() if (say := getattr(each, "say_error", None))}
        known = "see /openapi.json" if "/openapi.json" in routes else f"this port has {', '.join(sorted(routes))}"
        self._known_paths = known

    def serialize(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, exc: falcon.HTTPError) -> None:
        """Handle Falcon's own errors, and HTTP errors raised by resources."""
        text = exc.description or exc.title or exc.status
        if isinstance(exc, falcon.HTTPRouteNotFound):
            text = f"no such path: {req.path[:_SHOWN]!r}; {self._known_paths}"
        elif isinstance(exc, falcon.HTTPMethodNotAllowed):
            text = f"{req.path[:_SHOWN]!r} does not take {req.method[:_SHOWN]}: use {_methods(exc)}"
        self._answer(req, resp, str(text))

    async def observer_error(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, exc: ObserverError, _params: dict[str, str]
    ) -> None:
        """Handle our errors: the status says whether to retry."""
        resp.status = _status(exc)
        if isinstance(exc, RetryableError):
            resp.set_header("Retry-After", str(RETRY_AFTER_S))
        self._answer(req, resp, str(exc))

    async def unexpected(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, exc: Exception, _params: dict[str, str]
    ) -> None:
        """Handle unexpected errors: log them and answer 500."""
        log.error("request.failed", path=req.path[:200], exc_info=exc)
        resp.status = falcon.HTTP_500
        self._answer(req, resp, "the observer failed on this request; its log says why")

    def _answer(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, text: str) -> None:
        say = self._say.get(req.path)
        if say is not None:
            resp.content_type, resp.data = say(req, resp.status_code, text)
        else:
            resp.content_type = falcon.MEDIA_JSON
            resp.data = msgspec.json.encode({"error": text})


def _methods(exc: falcon.HTTPMethodNotAllowed) -> str:
    """The methods of the header `Allow`, without OPTIONS, which every path takes."""
    allowed = dict(exc.headers or {}).get("Allow", "").split(", ")
    return " or ".join(each for each in allowed if each != "OPTIONS")


_STATUS: Final[tuple[tuple[type[ObserverError], str], ...]] = (  # specific types before general ones
    (MalformedError, falcon.HTTP_400),
    (TooLargeError, falcon.HTTP_413),
    (ConflictError, falcon.HTTP_409),
    (NotKnownError, falcon.HTTP_404),
    (InvalidInputError, falcon.HTTP_422),
    (RetryableError, falcon.HTTP_503),
)


def _status(exc: ObserverError) -> str:
    return next((status for kind, status in _STATUS if isinstance(exc, kind)), falcon.HTTP_500)
