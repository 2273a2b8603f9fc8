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
_LOOK_S = 1.0  # interval of checks for late requests
_LEFT_S = 0.005  # interval of checks whether a stopping door is empty


class HttpReceiver:
    """Listens on *host*:*port* (0: any free port; see `port`) and serves *app* until stopped.

    *setting* is the variable that chooses the port, for the message if it is taken.
    """

    def __init__(
        self,
        name: str,
        app: App,
        *,
        host: str,
        port: int,
        setting: str,
        request_timeout_s: float,
        grace_s: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._app = app
        self._host = host
        self._setting = setting
        self._request_timeout_s = request_timeout_s
        self._grace_s = grace_s
        self._tls = tls
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Bind and listen. Raises StartError if the address is not available."""
        bound = self._bound()
        self.port = bound.getsockname()[1]
        server = _Server(self._config(), self._request_timeout_s)
        self._task = tasks.create_task(server.serve(sockets=[bound]), name=self.name)
        await server.listening.wait()
        self._server = server
        log.info("port.opened", serves=self.name, host=self._host, port=self.port)

    async def stop(self) -> None:
        """Stop accepting connections and finish requests in progress; those that do not arrive in time are dropped."""
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
            # Less than the half of the grace that a stage may take; uvicorn accepts a float.
            timeout_graceful_shutdown=self._grace_s * 3 / 8,  # type: ignore[arg-type]  # it is declared int
        )
        config.load()
        config.ssl = self._tls
        return config

    def _bound(self) -> socket.socket:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM)[0]
            sock = socket.socket(family, kind, proto)
        except OSError as exc:
            raise self._cannot_listen(exc) from exc
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
        except OSError as exc:
            sock.close()
            raise self._cannot_listen(exc) from exc
        return sock

    def _cannot_listen(self, exc: OSError) -> StartError:
        return StartError(
            f"the observer cannot listen on {self._host}:{self.port} for {self.name}",
            exc.strerror or str(exc),
            f"Stop what uses that port, or choose another with {self._setting}",
        )


def tls_context(cert: str, key: str) -> ssl.SSLContext | None:
    """A server-side TLS context from PEM files; None if there are none. Raises StartError."""
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


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us, tells when it listens, and stops without a delay.

    uvicorn itself polls ten times a second whether to stop, and whether its connections are closed.
    """

    def __init__(self, config: uvicorn.Config, request_timeout_s: float) -> None:
        super().__init__(config)
        self._request_timeout_s = request_timeout_s
        self._leaving = asyncio.Event()
        self.listening = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn would handle SIGTERM by itself, out of order."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def leave(self) -> None:
        """Stop now."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        """Once a second, until `leave`: update the Date header, and drop late requests."""
        while not await self.on_tick(0):
            self.give_up_before(asyncio.get_running_loop().time() - self._request_timeout_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._leaving.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, close idle connections, and let requests finish within the configured time."""
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
            log.warning("port.requests_cancelled", requests=len(state.tasks))
            for task in state.tasks:
                task.cancel()

    def give_up_before(self, since: float) -> None:
        """Drop the requests that began before *since* (loop time) and have not arrived completely."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, _BoundedProtocol) and connection.is_late(since):
                connection.give_up()


class _BoundedProtocol(HttpToolsProtocol):
    """Bounds the time from a request's first byte to its last, and the size of its head; uvicorn does neither.

    A connection that has sent nothing yet counts as a request in progress. One sweep over all connections checks the
    times: a timer per request would cost more than parsing the request.

    If the response is sent before the body has arrived, the rest of the body is read and dropped, within bounds.
    Closing at once would let many senders see the connection reset before the response.
    """

    late_since: float | None = None
    """When the request in progress began, in loop time; None between requests."""
    _head_bytes = 0
    _dropped_bytes = 0
    _in_head = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(CorkedTransport(transport, self.loop))  # type: ignore[arg-type]  # it acts as one
        self.late_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        HttpToolsProtocol.data_received(self, data)  # super() would cost a microsecond in each of these methods
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
        # After a dropped body uvicorn would wait for the next request without a limit.
        self.late_since = self.loop.time() if self.cycle.response_complete else None
        HttpToolsProtocol.on_message_complete(self)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - the signature is uvicorn's
        """Like uvicorn's, but with a JSON body with `error`, like all our errors."""
        self._refuse(b"400 Bad Request", b"this is not HTTP/1.1: send a valid request")

    def is_late(self, since: float) -> bool:
        """Whether a request began before *since* and has not arrived completely."""
        return self.late_since is not None and self.late_since < since

    def give_up(self) -> None:
        """Answer 408, unless a response has begun, and close the connection: the request was too slow."""
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
