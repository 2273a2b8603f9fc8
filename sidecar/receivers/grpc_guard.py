"""The guard of every gRPC call: checks the token, bounds what arrives, inflates gzip, and maps errors to `Status`.

The transport's own decompression is unbounded, so it is turned off; messages arrive here as they were sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from traceback import clear_frames
from typing import Any, NamedTuple

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status

from sidecar.errors import InvalidInputError, MalformedError, ObserverError, TooLargeError
from sidecar.receivers.bodies import BodyReader, ByteBudget, Lease
from sidecar.receivers.grpc_arrivals import MAX_MESSAGE_BYTES, Arrivals
from sidecar.receivers.rpc_status import plain_status, status_of
from sidecar.receivers.tokens import TokenStore

log = structlog.get_logger(__name__)

TRANSPORT_OPTIONS = (
    ("grpc.per_message_decompression", 0),
    ("grpc.http2.bdp_probe", 0),  # it would widen the window until whole unread messages are buffered
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
)
"""Channel options that this guard needs, to get messages as sent, and only when it asks for them."""

_MOST_STREAMS = 8  # each may bring the largest message at any moment
_OPEN = 2  # messages, and streams, of callers who need no token
_GZIP_MAGIC = b"\x1f\x8b"  # no message of ours begins like this: it would be field 3 with an invalid wire type
_DETAILS = "grpc-status-details-bin"
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_Answering = Callable[[Any], AbstractAsyncContextManager[None]]
"""Takes a call's context, and makes the block in which the call is answered: an exception becomes its status."""


class Access(NamedTuple):
    """What a method requires: a token's scope (None: anyone may call), and the maximum size of an inflated message."""

    scope: str | None
    max_bytes: int


class GrpcGuard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Checks calls by *access*, keyed by method (`/package.Service/Method`) or service (`/package.Service/`)."""

    def __init__(
        self, tokens: TokenStore, budget: ByteBudget, access: Mapping[str, Access], *, request_timeout_s: float
    ) -> None:
        self._tokens = tokens
        self._budget = budget
        self._access = access
        messages = max(1, budget.limit // MAX_MESSAGE_BYTES)
        self._arrivals = Arrivals(messages, _MOST_STREAMS, request_timeout_s)
        self._open_arrivals = Arrivals(_OPEN, _OPEN, request_timeout_s)
        self.refused = 0
        self.invalid: Counter[str] = Counter()  # calls with a message that is refused for good, by service

    @property
    def overloads(self) -> int:
        """Calls refused or aborted for lack of room for incoming messages."""
        return self._arrivals.refused + self._open_arrivals.refused

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], call: Any) -> Any:
        """The handler for *call*, or one that refuses it before its message is read."""
        handler = await continuation(call)
        if handler is None:
            return None
        service = call.method[: call.method.rfind("/") + 1]
        access = self._access.get(call.method) or self._access[service]
        refusal = self._refusal(dict(call.invocation_metadata or ()).get("authorization"), access.scope)
        if refusal is not None:
            self.refused += 1
            return _refusing(refusal)
        arrivals = self._arrivals if access.scope is not None else self._open_arrivals
        answering = partial(_answering, count_invalid=partial(self._count_invalid, service))
        return _Guarded(handler, self._budget, arrivals, access.max_bytes, answering).handler()

    def _count_invalid(self, service: str) -> None:
        self.invalid[service] += 1

    def _refusal(self, authorization: str | bytes | None, scope: str | None) -> Status | None:
        if scope is None or not self._tokens.required:
            return None
        shown = authorization.decode("latin-1") if isinstance(authorization, bytes) else authorization
        scopes = self._tokens.scopes(shown)
        if scopes is None:
            return plain_status(
                code_pb2.UNAUTHENTICATED,
                "a token is needed: send the metadata authorization: Bearer TOKEN"
                if shown is None
                else "this token is not known: look at OBSERVER_TOKEN or OBSERVER_TOKEN_FILE",
            )
        if scope not in scopes:
            return plain_status(code_pb2.PERMISSION_DENIED, f"this token lacks the scope {scope!r}")
        return None


class _Guarded:
    """One method's handler with bounded reading of messages and proper error statuses.

    Every method is served as a request stream, which clients cannot notice: so a call can be refused, or wait for a
    place, before its message is read. A stream keeps its place while it is open. (It uses `context.read`, because the
    request iterator would keep the last message alive in a reference cycle.)
    """

    def __init__(
        self, inner: Any, budget: ByteBudget, arrivals: Arrivals, max_bytes: int, answering: _Answering
    ) -> None:
        self._inner = inner
        self._answering = answering
        self._budget = budget
        self._arrivals = arrivals
        self._max_bytes = max_bytes
        self._bodies = BodyReader(budget, max_bytes=max_bytes)

    def handler(self) -> Any:
        """A handler that replaces the inner one."""
        inner = self._inner
        if inner.response_streaming:
            make, behaviour = grpc.stream_stream_rpc_method_handler, self._streamed
        else:
            make, behaviour = grpc.stream_unary_rpc_method_handler, self._single
        return make(behaviour, request_deserializer=None, response_serializer=inner.response_serializer)

    async def _single(self, _requests: Any, context: Any) -> Any:
        async with self._answering(context):
            if self._inner.request_streaming:
                with self._arrivals.stream():
                    return await self._inner.stream_unary(self._messages(context), context)
            with Lease(self._budget) as lease:
                return await self._inner.unary_unary(await self._message(context, lease), context)

    async def _streamed(self, _requests: Any, context: Any) -> None:
        async with self._answering(context):
            if self._inner.request_streaming:
                with self._arrivals.stream():
                    await _answer(self._inner.stream_stream(self._messages(context), context), context)
                return
            with Lease(self._budget) as lease:
                message = await self._message(context, lease)
            await _answer(self._inner.unary_stream(message, context), context)

    async def _message(self, context: Any, lease: Lease) -> Any:
        async with self._arrivals.message(context.peer()):
            raw = await context.read()
            if raw is grpc.aio.EOF:
                raise MalformedError("there is no message", "the call ended before one", "Send one")
        lease.take(len(raw))
        return await self._read(raw, lease)

    async def _messages(self, context: Any) -> AsyncIterator[Any]:
        while (raw := await context.read()) is not grpc.aio.EOF:
            with Lease(self._budget) as lease:
                message = await self._read(raw, lease)
                raw = b""  # it may be as large as the message, and the next one may come hours later
                yield message

    async def _read(self, raw: bytes, lease: Lease) -> Any:
        if raw.startswith(_GZIP_MAGIC):
            raw = await self._bodies.unzipped(raw, lease)
        if len(raw) > self._max_bytes:
            raise TooLargeError(f"the message is over {self._max_bytes} bytes", f"it has {len(raw)}", "Send less")
        if self._inner.request_deserializer is None:
            return raw
        try:
            return self._inner.request_deserializer(raw)
        except DecodeError as exc:
            raise MalformedError("the message cannot be read", str(exc)[:200], "See observer.proto") from exc


async def _answer(answers: Any, context: Any) -> None:
    """Send what a streaming handler yields; a handler that is not a generator writes by itself."""
    if not hasattr(answers, "__aiter__"):
        await answers
        return
    async with aclosing(answers):  # closes it at once when the call is cancelled, to release its resources
        async for answer in answers:
            await context.write(answer)


@asynccontextmanager
async def _answering(context: Any, count_invalid: Callable[[], None]) -> AsyncIterator[None]:
    """Turn exceptions raised in the block into the call's status."""
    try:
        yield
        return
    except grpc.aio.AbortError:
        raise
    except ObserverError as exc:
        status = status_of(exc)
        if isinstance(exc, InvalidInputError):
            count_invalid()
        clear_frames(exc.__traceback__)  # gRPC keeps the error in a cycle, and its frames would keep the message alive
    except Exception:
        log.exception("call.failed")
        status = plain_status(code_pb2.INTERNAL, "the observer failed on this call; its log says why")
    await abort(context, status)


async def abort(context: Any, status: Status) -> None:
    """End the call with *status*, details included. Source: gRPC, richer error model."""
    metadata = ((_DETAILS, status.SerializeToString()),)
    await context.abort(_CODES[status.code], status.message, trailing_metadata=metadata)


def _refusing(status: Status) -> Any:
    async def refuse(_requests: Any, context: Any) -> None:
        await abort(context, status)

    return grpc.stream_unary_rpc_method_handler(refuse)
