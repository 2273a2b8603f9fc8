"""A gateway that costs next to nothing, behind the proxy while it is measured.

`python -m benchmarks.upstream_stub PORT` gives a short JSON answer to every request, every tenth an error. The path
`/stream/BYTES` returns that many bytes as fast as they are read, `/text/BYTES` the same as text.
Reads `Content-Length` bodies only.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb"GET /(stream|text)/(\d+)")
_KINDS = {b"stream": b"application/octet-stream", b"text": b"text/plain"}
_GOOD = b'{"rows":[{"id":"w-17","name":"Ann"},{"id":"w-23","name":"Bo"}],"row_count":2}'
_BAD = b'{"error":"Boise office is closed until 2026-05-04 (notice N-4711)"}'
_PIECE = b"x" * 65536


def _response(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head + body


class Stub(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._pending = b""
        self._left = 0
        self._count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (size := self._request_size()) and size <= len(self._pending):
            request, self._pending = self._pending[:size], self._pending[size:]
            self._answer(request)

    def resume_writing(self) -> None:
        self._pour()

    def pause_writing(self) -> None:
        """Nothing to do: `_pour` checks the buffer itself."""

    def _request_size(self) -> int:
        head = self._pending.find(b"\r\n\r\n")
        length = _LENGTH.search(self._pending, 0, head) if head >= 0 else None
        return 0 if head < 0 else head + 4 + (int(length[1]) if length else 0)

    def _answer(self, request: bytes) -> None:
        assert self._transport is not None
        stream = _STREAM.match(request)
        if stream:
            self._left = int(stream[2])
            head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % (_KINDS[stream[1]], self._left))
            self._pour()
            return
        self._count += 1
        self._transport.write(_response(_BAD if self._count % 10 == 0 else _GOOD))

    def _pour(self) -> None:
        assert self._transport is not None
        while self._left and self._transport.get_write_buffer_size() < 4 * len(_PIECE):
            piece = _PIECE[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
