"""An HTTP door: one socket, one uvicorn server, one Falcon application, as a stage."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httptools
import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sidecar.errors import StartError
from sidecar.receivers.http_app import App

log = structlog.get_logger(__name__)

_BACKLOG = 2048
_MOST_CONNECTIONS = 8192
_MOST_HEAD_BYTES = 64 * 1024


class HttpReceiver:
    """Listens on *host*:*port* (0 picks one; `port` tells which) and serves *app* until stopped."""

    def __init__(
        self,
        name: str,
        app: App,
        *,
        host: str,
        port: int,
        header_timeout_s: float,
        grace_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._app = app
        self._host = host
        self._header_timeout_s = header_timeout_s
        self._grace_s = grace_s
        self._tls = tls
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Bind and listen. Raises StartError if the address cannot be had."""
        bound = _bound(self._host, self.port, self.name)
        self.port = bound.getsockname()[1]
        server = _Server(self._config())
        self._task = tasks.create_task(server.serve(sockets=[bound]), name=self.name)
        await server.listening.wait()
        self._server = server
        log.info("door.opened", door=self.name, host=self._host, port=self.port)

    async def stop(self) -> None:
        """Take no more connections, finish the requests that are under way."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.wait([self._task])
            self._server = None

    def _config(self) -> uvicorn.Config:
        timeout_s = self._header_timeout_s

        class Protocol(_PatientProtocol):
            header_timeout_s = timeout_s

        config = uvicorn.Config(
            self._app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            backlog=_BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, int(self._grace_s)),
        )
        config.load()
        config.ssl = self._tls
        return config


def tls_context(cert: str, key: str) -> ssl.SSLContext | None:
    """A server-side TLS context from PEM files, or None if there are none. Raises StartError."""
    if not cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as exc:
        raise StartError(
            "TLS cannot be set up", f"{cert} and {key}: {exc}", "Give a PEM certificate and its unencrypted key"
        ) from exc
    return context


def _bound(host: str, port: int, name: str) -> socket.socket:
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, proto)
    except OSError as exc:
        raise _cannot_listen(host, port, name, exc) from exc
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        raise _cannot_listen(host, port, name, exc) from exc
    return sock


def _cannot_listen(host: str, port: int, name: str, exc: OSError) -> StartError:
    return StartError(
        f"the {name} door cannot listen on {host}:{port}",
        exc.strerror or str(exc),
        "Stop what uses that port, or choose another with OBSERVER_PORT / OBSERVER_HEALTH_PORT",
    )


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn would answer SIGTERM by itself, out of turn."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


class _PatientProtocol(HttpToolsProtocol):
    """Bounds a request's head in time and size; uvicorn itself would wait, and read, for ever."""

    header_timeout_s = 30.0
    _deadline: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        if self._deadline is None:  # a later request on the same connection
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_arrived()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """As uvicorn's, but JSON with `error`, as every other error of ours."""
        body = b'{"error":"this is not HTTP/1.1: send a valid request"}'
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _MOST_HEAD_BYTES:
            raise httptools.HttpParserError  # uvicorn answers with send_400_response

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.header_timeout_s, self._too_slow)

    def _head_arrived(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()
