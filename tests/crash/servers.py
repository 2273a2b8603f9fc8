"""A collector and a gateway on 127.0.0.1 that can be cut off and restored, and that record what they receive."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections import Counter
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.crash.events import TOOLS
from tests.otlp_receiver import spans_in

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"


class CutServer:
    """HTTP/1.1 with kept-alive connections, on one port for its whole life."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Condition()
        self._port = 0

    @property
    def url(self) -> str:
        """Its address, also while it is cut off."""
        return f"http://127.0.0.1:{self._port}"

    async def restore(self) -> None:
        """Listen: on any free port the first time, then on the same one."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, reuse_address=True)
            self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Refuse new connections and break those that are open."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            self._server = None

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[bytes, bytes]:
        """Record a request; return the content type and body of the response."""
        raise NotImplementedError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while True:
                kind, answer = self.take(*await _request(reader))
                writer.write(_ANSWER % (kind, len(answer), answer))
                async with self._changed:
                    self._changed.notify_all()
        except (OSError, asyncio.IncompleteReadError):
            pass  # closed by the observer, or by `cut`
        finally:
            self._open.discard(writer)
            writer.close()


class Collector(CutServer):
    """OTLP over HTTP/protobuf. Counts the load's spans: all of them in `taken`, and with *keep* by id in `spans`."""

    def __init__(self, *, keep: bool = True) -> None:
        super().__init__()
        self._keep = keep
        self.spans: Counter[bytes] = Counter()
        self.taken = 0

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[bytes, bytes]:
        """Count the load's spans; the observer's own metrics and spans are ignored."""
        if path != "/v1/traces":
            return b"application/x-protobuf", b""
        raw = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        request = ExportTraceServiceRequest.FromString(raw)
        spans = [span for span in spans_in(request) if span.name.startswith(TOOLS)]
        self.taken += len(spans)
        if self._keep:
            self.spans.update(span.span_id for span in spans)
        return b"application/x-protobuf", b""

    async def wait_for(self, spans: set[bytes], most_s: float) -> set[bytes]:
        """Wait up to *most_s* seconds for *spans*; return those that have not arrived."""
        missing = spans - self.spans.keys()
        try:
            async with asyncio.timeout(most_s), self._changed:
                while missing:
                    await self._changed.wait()
                    missing -= self.spans.keys()
        except TimeoutError:
            pass
        return missing

    async def wait_taken(self, count: int, most_s: float) -> bool:
        """Wait for *count* spans, repeats included; False if *most_s* seconds pass first."""
        try:
            async with asyncio.timeout(most_s), self._changed:
                await self._changed.wait_for(lambda: self.taken >= count)
        except TimeoutError:
            return False
        return True


class Gateway(CutServer):
    """Records posts to `/log` by their `Idempotency-Key`; answers every request with an empty object."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: dict[str, dict[str, Any]] = {}
        self.repeated = 0
        self.changed_keys: list[str] = []  # keys repeated with another body

    def take(self, path: str, headers: dict[str, str], body: bytes) -> tuple[bytes, bytes]:
        """Record a post."""
        if path == "/log":
            key, post = headers["idempotency-key"], json.loads(body)
            known = self.posts.setdefault(key, post)
            self.repeated += known is not post
            if known != post:
                self.changed_keys.append(key)
        return b"application/json", b"{}"

    async def wait_results(self, texts: set[str], most_s: float) -> set[str]:
        """Wait up to *most_s* seconds; return those of *texts* whose beginning was not posted as a `result`."""

        def missing() -> set[str]:
            results = tuple(str(post["result"]).rstrip("…") for post in self.posts.values())
            return {text for text in texts if not any(text.startswith(result) for result in results)}

        try:
            async with asyncio.timeout(most_s), self._changed:
                await self._changed.wait_for(lambda: not missing())
        except TimeoutError:
            pass
        return missing()


async def _request(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Path, headers (names in lower case) and body of the next request."""
    line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (header.partition(":") for header in rest)}
    return line.split(" ")[1], headers, await reader.readexactly(int(headers.get("content-length", "0")))
