"""Spans to the collector over OTLP: a bounded queue and one thread around the SDK's own exporters.

Only spans with the sampled flag leave. The standard `OTEL_EXPORTER_OTLP_*` variables for headers, certificates,
compression and time-outs are read by those exporters.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from contextlib import suppress

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = structlog.get_logger(__name__)

_BATCH = 512
_BATCH_BYTES = 2 * 2**20  # collectors refuse gRPC messages over 4 MiB: their default bound
_DEPTH = 8192
_DEPTH_BYTES = 16 * 2**20
_FIXED_BYTES = 1000  # a span's own objects, beside its texts
_LINGER_S = 0.5
_RETRY_S = 5.0  # beside the SDK exporter's own retries, which take up to its time-out of 10 s
_MOST_ATTEMPTS = 60  # a quarter of an hour for a collector that is away
_SDK_LOGGERS = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.common.http",
)


def span_exporter(endpoint: str, protocol: str, *, whole_path: bool) -> SpanExporter:
    """The SDK's exporter for *protocol* (`grpc` or `http/protobuf`).

    *whole_path* says that *endpoint* is used as it stands over HTTP; otherwise `/v1/traces` is added to it.
    Source: OTLP exporter specification, endpoint URLs for OTLP/HTTP. Imported late: gRPC alone takes 10 MiB.
    """
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - see above
            OTLPSpanExporter as GrpcExporter,
        )

        return GrpcExporter(endpoint=endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - see above
        OTLPSpanExporter as HttpExporter,
    )

    return HttpExporter(endpoint=endpoint if whole_path else endpoint.rstrip("/") + "/v1/traces")


class SpanExport(SpanProcessor):
    """Queues ended, sampled spans and exports them from a thread; a stage and a span processor.

    The queue holds the newest spans, bounded in number and bytes: what it has no room for goes oldest first, counted
    in `evicted`. A batch that the collector does not take is tried again and again; what is given up after
    `_MOST_ATTEMPTS`, or refused while stopping, is counted in `failed`.
    """

    name = "export"

    def __init__(self, exporter: SpanExporter, drain_s: float, retry_s: float = _RETRY_S) -> None:
        """*drain_s* bounds the last exports at `stop`; *retry_s* is the rest between two attempts at a batch."""
        self._exporter = exporter
        self._drain_s = drain_s
        self._retry_s = retry_s
        self._queue: deque[tuple[ReadableSpan, int]] = deque()
        self._queue_bytes = 0
        self._wake = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._in_flight = 0
        self._attempts = 0  # at the batch that the collector has not taken yet
        self._stop_now = threading.Event()
        self._quiet = _Quiet()
        for name in _SDK_LOGGERS:
            logging.getLogger(name).addFilter(self._quiet)
        self.exported = 0
        self.failed = 0
        self.evicted = 0

    @property
    def queued(self) -> int:
        """Spans that wait."""
        return len(self._queue)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: spans are exported when they have ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue *span* if its sampled flag is set. From any thread; no I/O."""
        context = span.context
        if context is None or not context.trace_flags.sampled:
            return
        size = _size(span)
        with self._wake:
            self._queue.append((span, size))
            self._queue_bytes += size
            while len(self._queue) > _DEPTH or (self._queue_bytes > _DEPTH_BYTES and len(self._queue) > 1):
                self._queue_bytes -= self._queue.popleft()[1]
                self.evicted += 1
            if self._is_batch():
                self._wake.notify()

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Begin to export. Does not wait for the collector."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="otlp-export", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Export what waits, for a bounded time: a collector that hangs or is gone costs those spans, counted."""
        if self._thread is None:
            return
        self._thread = None
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._stop_now.set()
        try:
            async with asyncio.timeout(self._drain_s):
                await self._ended.wait()
        except TimeoutError:
            with self._wake:
                left, in_flight = len(self._queue), self._in_flight
                self._queue.clear()
                self._queue_bytes = 0
            self.evicted += left
            log.error("export.cut_short", left_behind=left, in_flight=in_flight, waited_s=self._drain_s)
        finally:
            for name in _SDK_LOGGERS:
                logging.getLogger(name).removeFilter(self._quiet)
            threading.Thread(target=self._exporter.shutdown, daemon=True).start()  # it may wait for its own retry

    def shutdown(self) -> None:
        """Nothing: `stop` does it, in flow order."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the signature is the SDK's
        """Whether nothing waits."""
        return not self._queue

    def _run(self) -> None:
        while True:
            with self._wake:
                if not self._stopping and not self._is_batch():
                    self._wake.wait(_LINGER_S)
                batch = self._taken()
                self._in_flight = len(batch)
                if not batch and self._stopping:
                    break
            while batch and not self._settled(batch):
                self._stop_now.wait(self._retry_s)
            self._in_flight = 0
        with suppress(RuntimeError):  # the loop is closed: `stop` has given up waiting
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._ended.set)

    def _is_batch(self) -> bool:
        """Whether what waits fills a request."""
        return len(self._queue) >= _BATCH or self._queue_bytes >= _BATCH_BYTES

    def _taken(self) -> list[ReadableSpan]:
        """The oldest spans of the queue, out of it: as many as one request may carry, one at least if there is one."""
        batch: list[ReadableSpan] = []
        room = _BATCH_BYTES
        while self._queue and len(batch) < _BATCH and (self._queue[0][1] <= room or not batch):
            span, size = self._queue.popleft()
            self._queue_bytes -= size
            room -= size
            batch.append(span)
        return batch

    def _settled(self, batch: list[ReadableSpan]) -> bool:
        """Try *batch* once. True when it was taken, or given up."""
        try:
            done = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:
            log.exception("export.failed", spans=len(batch))
            done = False
        if done:
            self.exported += len(batch)
            if self._attempts:
                log.info("export.recovered", attempts=self._attempts)
        else:
            self._attempts += 1
            if self._attempts == 1:
                log.warning("export.refused", spans=len(batch), waiting=len(self._queue))
            if not self._stopping and self._attempts < _MOST_ATTEMPTS:
                self._quiet.on = True
                return False
            self.failed += len(batch)
            log.error("export.given_up", spans=len(batch), attempts=self._attempts)
        self._attempts, self._quiet.on = 0, False
        return True


class _Quiet(logging.Filter):
    """Holds back what the SDK's exporter logs at every attempt, once the first attempt has said what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the signature is logging's
        """Whether *record* is logged."""
        return not self.on


def _size(span: ReadableSpan) -> int:
    """About its bytes: its texts, each character as wide as the widest that UTF-8 may need for it."""
    texts = (value for value in (span.attributes or {}).values() if isinstance(value, str))
    return _FIXED_BYTES + sum(len(text) if text.isascii() else 4 * len(text) for text in texts)
