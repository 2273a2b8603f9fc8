"""An HTTP door: one socket, one uvicorn server, one Falcon application, as a stage."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sidecar.errors import StartError
from sidecar.receivers.corked_transport import CorkedTransport
from sidecar.receivers.http_app import App

log = structlog.get_logger(__name__)

_BACKLOG = 2048
_MOST_CONNECTIONS = 8192
_MOST_HEAD_BYTES = 64 * 1024
_MOST_DROPPED_BYTES = 128 * 2**20
_LOOK_S = 1.0  # between two looks at requests that are late
_LEFT_S = 0.005  # between two looks at whether a door that stops is empty


class HttpReceiver:
    """Listens on *host*:*port* (0 picks one; `port` tells which) and serves *app* until stopped."""

    def __init__(
        self,
        name: str,
        app: App,
        *,
        host: str,
        port: int,
        request_timeout_s: float,
        grace_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._app = app
        self._host = host
        self._request_timeout_s = request_timeout_s
        self._grace_s = grace_s
        self._tls = tls
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Bind and listen. Raises StartError if the address cannot be had."""
        bound = _bound(self._host, self.port, self.name)
        self.port = bound.getsockname()[1]
        server = _Server(self._config(), self._request_timeout_s)
        self._task = tasks.create_task(server.serve(sockets=[bound]), name=self.name)
        await server.listening.wait()
        self._server = server
        log.info("door.opened", door=self.name, host=self._host, port=self.port)

    async def stop(self) -> None:
        """Take no more connections, finish the requests that are under way; those that do not arrive are given up."""
        server, self._server = self._server, None
        if server is not None and self._task is not None:
            server.leave()
            done, _ = await asyncio.wait([self._task], timeout=self._grace_s / 4)
            if not done:
                server.give_up_before(asyncio.get_running_loop().time())
                await asyncio.wait([self._task])

    def _config(self) -> uvicorn.Config:
        config = uvicorn.Config(
            self._app,
            http=_BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_MOST_CONNECTIONS,
            backlog=_BACKLOG,
            timeout_keep_alive=75,
            # Less than the half of the grace that a stage may take; uvicorn is content with a float.
            timeout_graceful_shutdown=self._grace_s * 3 / 8,  # type: ignore[arg-type]  # it is declared int
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
    """A uvicorn server that leaves signals to us, says when it listens, and stops without a pause.

    uvicorn looks ten times a second whether it is to stop, and as often whether its connections are gone.
    """

    def __init__(self, config: uvicorn.Config, request_timeout_s: float) -> None:
        super().__init__(config)
        self._request_timeout_s = request_timeout_s
        self._leaving = asyncio.Event()
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn would answer SIGTERM by itself, out of turn."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def leave(self) -> None:
        """Stop now."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Once a second, until `leave`: date the answers, and give up the requests that are late."""
        while not await self.on_tick(0):
            self.give_up_before(asyncio.get_running_loop().time() - self._request_timeout_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, close the idle ones, and let requests end, as long as the configuration says."""
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        state = self.server_state
        for connection in list(state.connections):
            connection.shutdown()
        try:
            async with asyncio.timeout(self.config.timeout_graceful_shutdown):
                while state.connections or state.tasks:  # noqa: ASYNC110 - uvicorn's sets tell nobody of a change
                    await asyncio.sleep(_LEFT_S)
                for server in self.servers:
                    await server.wait_closed()
        except TimeoutError:
            log.warning("door.requests_cancelled", requests=len(state.tasks))
            for task in state.tasks:
                task.cancel()

    def give_up_before(self, since: float) -> None:
        """Give up the requests that began before *since* (the loop's time) and are not here yet."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, _BoundedProtocol) and connection.is_late(since):
                connection.give_up()


class _BoundedProtocol(HttpToolsProtocol):
    """Bounds a request in time, from its first byte to its last, and its head in size; uvicorn itself does neither.

    A connection that has sent nothing yet counts as one whose request is late. The times are looked at by one
    sweep over all connections: a timer for each request would cost more than the request's parsing.

    What is left of a body when its answer has been given is read and dropped, within bounds: were the connection
    closed at once, many a sender would meet the reset before the answer.
    """

    late_since: float | None = None
    """When the request under way began, on the event loop's clock; None between requests."""
    _head_bytes = 0
    _dropped_bytes = 0
    _in_head = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(CorkedTransport(transport, self.loop))  # type: ignore[arg-type]  # it acts as one
        self.late_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        HttpToolsProtocol.data_received(self, data)  # super() costs a microsecond in each of these
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(
                    b"431 Request Header Fields Too Large", b"the request's head is too large: send less of it"
                )

    def on_message_begin(self) -> None:
        self.late_since = self.loop.time()
        self._in_head, self._head_bytes, self._dropped_bytes = True, 0, 0
        HttpToolsProtocol.on_message_begin(self)

    def on_headers_complete(self) -> None:
        self._in_head = False
        HttpToolsProtocol.on_headers_complete(self)

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._dropped_bytes += len(body)
            if self._dropped_bytes > _MOST_DROPPED_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        # Behind a body that was dropped uvicorn would wait for the next request for ever.
        self.late_since = self.loop.time() if self.cycle.response_complete else None
        HttpToolsProtocol.on_message_complete(self)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """As uvicorn's, but JSON with `error`, as every other error of ours."""
        self._refuse(b"400 Bad Request", b"this is not HTTP/1.1: send a valid request")

    def is_late(self, since: float) -> bool:
        """Whether a request began before *since* and is not here yet."""
        return self.late_since is not None and self.late_since < since

    def give_up(self) -> None:
        """The request did not arrive in time: say so where nothing else was said yet, and hang up."""
        if self.cycle is not None and self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout", b"the request came too slowly: send it again, faster")

    def _refuse(self, status: bytes, text: bytes) -> None:
        body = b'{"error":"%b"}' % text
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )
        self.transport.close()
