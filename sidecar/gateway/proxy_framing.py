"""Frames the messages of an exchange: bodies without a length are sent in chunks, if the receiver knows chunks.

Source: RFC 9112, 6 and 7.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sidecar.gateway.proxy_head import Headers, RequestHead, ResponseHead, trailer_lines

_MOST_PENDING_BYTES = 16 * 1024


class OutgoingRequest:
    """The bytes of a request that are not yet written to the gateway: they wait for its head and for a connection."""

    __slots__ = ("_head", "_out", "_pending_bytes")

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._out: list[bytes] = []
        self._pending_bytes = 0

    @property
    def full(self) -> bool:
        """Whether enough of the body waits."""
        return self._pending_bytes > _MOST_PENDING_BYTES

    def put_head(self, lines: Iterable[bytes]) -> None:
        """Put the head, with *lines*, before what has arrived of the body."""
        self._out.insert(0, self._head.to_send(lines))

    def add(self, data: bytes) -> None:
        """Add a piece of the body."""
        self._pending_bytes += len(data)
        self._out += _chunk(data) if self._head.chunked else (data,)

    def end(self, trailers: Headers) -> None:
        """The body is complete."""
        if self._head.chunked:
            self._out.append(_last_chunk(trailers))

    def send_on(self, transport: asyncio.Transport | None) -> None:
        """Write what waits to *transport*; without one keep it, joined."""
        if not self._out:
            return
        out = b"".join(self._out)
        if transport is None:
            self._out = [out]
            return
        self.clear()
        if not transport.is_closing():  # uvloop would raise; `connection_lost` follows
            transport.write(out)

    def clear(self) -> None:
        """Drop what waits."""
        self._out, self._pending_bytes = [], 0


class AnswerFraming:
    """How the response to *request* reaches the agent. It may end with the connection: then it sets `request.close`."""

    __slots__ = ("_request", "chunked")

    def __init__(self, request: RequestHead) -> None:
        self._request = request
        self.chunked = False  # its pieces are sent as chunks

    def lines(self, head: ResponseHead, *, until_close: bool, may_continue: bool) -> list[bytes]:
        """The header lines about it.

        *until_close*: the gateway's connection ends the body. *may_continue*: the agent awaits 100 (Continue) in vain.
        """
        request, lines = self._request, list[bytes]()
        if may_continue:
            request.close = True  # the agent may still send its body, or not: RFC 9110, 10.1.1
        if head.chunked or until_close:
            if request.http10:
                request.close = True
            elif head.status != 204:  # RFC 9112, 6.1
                lines.append(b"Transfer-Encoding: chunked")
                self.chunked = request.method != b"HEAD" and head.status != 304
        if request.close:
            lines.append(b"Connection: close")
        return lines

    def piece(self, data: bytes) -> tuple[bytes, ...]:
        """A piece of the body."""
        return _chunk(data) if self.chunked else (data,)

    def end(self, trailers: Headers) -> tuple[bytes, ...]:
        """The end of the body."""
        return (_last_chunk(trailers),) if self.chunked else ()


def _chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """*data* as one chunk, in parts."""
    return b"%x\r\n" % len(data), data, b"\r\n"


def _last_chunk(trailers: Headers) -> bytes:
    """The end of a chunked body."""
    return b"\r\n".join([b"0", *trailer_lines(trailers), b"", b""])
