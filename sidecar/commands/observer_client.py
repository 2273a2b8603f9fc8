"""An HTTP client of a running observer, for the commands that read from one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from sidecar.commands.addresses import place
from sidecar.commands.terminal import visible
from sidecar.commands.tls import pinned
from sidecar.commands.why_failed import why_failed
from sidecar.errors import StartError

T = TypeVar("T")
_TIMEOUT_S = 10.0
_QUIET_S = 30.0  # the live stream sends something every 10 s
_MOST_READINGS = 3  # attempts to read a list that changes meanwhile


class AskError(StartError):
    """A running observer could not be reached, or refused the request."""


class NotThereError(AskError):
    """The observer does not know the requested item."""


class WrongRequestError(AskError):
    """The observer refused what was asked for; *why* are its own words."""


class AwayError(AskError):
    """The observer does not answer now; a later attempt may succeed."""


class _ChangedError(Exception):
    """A list changed after its first pages were read."""


class ObserverClient:
    """A client of the observer at *url*; a context manager. Methods raise AskError: AwayError if a retry may help."""

    def __init__(self, url: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        self.url = url
        headers = {b"Authorization": b"Bearer " + token.strip().encode()} if token else {}
        try:
            # No proxy from the environment: the observer is on this machine, or at the end of a port-forward.
            self._client = httpx.Client(
                base_url=url, headers=headers, trust_env=False, timeout=_TIMEOUT_S, verify=tls or False
            )
        except (httpx.InvalidURL, ValueError) as exc:
            raise _not_an_address(url) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of a successful response."""
        with self._translated_errors():
            response = self._client.get(path, params=params)
            self._check(response)
            return response.content

    def listed(self, path: str, name: str, kind: type[T], params: Mapping[str, str] | None = None) -> list[T]:
        """All items of a paged list, decoded as *kind*; *name* is the list's member in a page.

        If the item at which a page begins has gone meanwhile, the list is read again, a few times.
        """
        for _ in range(_MOST_READINGS):
            try:
                return [item for page in self._each_page(path, params or {}) for item in self._items(page, name, kind)]
            except _ChangedError:
                continue
        raise AwayError(f"the list at {self.url}{path} cannot be read", "it changes too fast", "Try again later")

    def post(self, path: str, body: bytes | Mapping[str, str | int], scope: str = "admin") -> bytes:
        """The body of a successful response to *body* (JSON, or to be encoded); needs a token with *scope*."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        with self._translated_errors():
            response = self._client.post(path, content=content, headers={"Content-Type": "application/json"})
            self._check(response, scope)
            return response.content

    @contextmanager
    def stream(self, path: str, params: Mapping[str, str]) -> Iterator[Iterator[bytes]]:
        """The chunks of an endless response, as they arrive."""
        headers = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        timeout = httpx.Timeout(_TIMEOUT_S, read=_QUIET_S)
        with (
            self._translated_errors(),
            self._client.stream("GET", path, params=params, headers=headers, timeout=timeout) as response,
        ):
            if response.status_code != 200:
                response.read()
            self._check(response)
            if "text/event-stream" not in response.headers.get("Content-Type", ""):
                raise self._not_an_observer("it sends no event stream")
            yield response.iter_raw()

    def decoded(self, body: bytes, kind: Any) -> Any:
        """*body* as JSON of type *kind*."""
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise self._not_an_observer(str(exc)) from exc

    def _each_page(self, path: str, params: Mapping[str, str]) -> Iterator[dict[str, msgspec.Raw]]:
        cursors: list[str] = []
        while True:
            try:
                body = self.get(path, {**params, "cursor": cursors[-1]} if cursors else params)
            except NotThereError as exc:
                if cursors:
                    raise _ChangedError from exc
                raise
            page: dict[str, msgspec.Raw] = self.decoded(body, dict[str, msgspec.Raw])
            yield page
            if "next_cursor" not in page:
                return
            cursor: str = self.decoded(bytes(page["next_cursor"]), str)
            if cursor in cursors:
                raise self._not_an_observer("the pages of its list form a cycle")
            cursors.append(cursor)

    def _items(self, page: Mapping[str, msgspec.Raw], name: str, kind: type[T]) -> list[T]:
        if name not in page:
            raise self._not_an_observer(f"its list has no {name!r}")
        items: list[T] = self.decoded(bytes(page[name]), list[kind])  # type: ignore[valid-type]  # it is, at run time
        return items

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as exc:
            raise _not_an_address(self.url) from exc
        except httpx.HTTPError as exc:
            fix = "Start one with `observer run`, or name its address with --url"
            raise AwayError(f"no observer answers at {self.url}", why_failed(exc, _TIMEOUT_S), fix) from exc

    def _check(self, response: httpx.Response, scope: str = "read") -> None:
        status = response.status_code
        if status == 200:
            return
        why = _reason(response)
        if status in (401, 403):
            raise AskError(
                f"the observer at {self.url} refused us ({status})",
                why,
                f"Give a token with the scope `{scope}`: --token, or OBSERVER_TOKEN",
            )
        own_words = _error_of(response)  # they end with what to do
        if status >= 500:
            raise AwayError(
                f"the observer at {self.url} cannot answer now ({status})", why, "" if own_words else "Try again later"
            )
        if status == 404 and own_words:
            raise NotThereError(f"the observer at {self.url} does not know that (404)", why, "")
        if status == 404:
            raise self._not_an_observer("it has no such page")
        raise WrongRequestError(
            f"the observer at {self.url} refused us ({status})",
            why,
            "" if own_words else "Change the request, or --url",
        )

    def _not_an_observer(self, why: str) -> AskError:
        return AskError(f"what answers at {self.url} is not an observer", visible(why), "Name the observer with --url")


def observer_client(url: str | None, token: str | None, env: Mapping[str, str]) -> ObserverClient:
    """A client for *url*, or for the observer that *env* describes, so that commands work inside its container."""
    chosen = (url if url is None or "://" in url else f"http://{url}") or _own_url(env)
    try:
        parts = urlsplit(chosen)
        is_address = bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address:
        raise _not_an_address(chosen)
    tls = _tls(env, is_own=url is None) if parts.scheme == "https" else None
    return ObserverClient(chosen.rstrip("/"), token or env.get("OBSERVER_TOKEN", ""), tls)


def _own_url(env: Mapping[str, str]) -> str:
    scheme = "https" if env.get("OBSERVER_TLS_CERT") else "http"
    return f"{scheme}://{place(env.get('OBSERVER_HOST', ''), env.get('OBSERVER_PORT', '').strip() or '3800')}"


def _tls(env: Mapping[str, str], *, is_own: bool) -> ssl.SSLContext:
    """Trusts our own certificate if the environment names one and the address is our own; otherwise the system's."""
    certificate = env.get("OBSERVER_TLS_CERT", "")
    if not (is_own and certificate):
        return ssl.create_default_context()
    try:
        return pinned(certificate)
    except OSError as exc:  # includes ssl.SSLError
        raise AskError(
            f"{certificate} cannot be read", str(exc), "Name a PEM certificate in OBSERVER_TLS_CERT"
        ) from exc


def _not_an_address(url: str) -> AskError:
    return AskError(f"{visible(url)!r} is not an address", "expected http://HOST:PORT", "Give one with --url")


def _reason(response: httpx.Response) -> str:
    """The response's own `error`, or its status in words."""
    return _error_of(response) or response.reason_phrase or "it does not say why"


def _error_of(response: httpx.Response) -> str:
    try:
        error = msgspec.json.decode(response.content, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = None
    return visible(str(error))[:300] if error else ""
