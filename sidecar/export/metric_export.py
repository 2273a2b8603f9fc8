"""Pushes the observer's own metrics over OTLP at an interval: reads them on the event loop, sends from a thread.

The SDK's periodic reader would read our unlocked counters from its own thread, and its shutdown is unbounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricsData

from sidecar.export.answers import Answer
from sidecar.export.otlp_sender import OtlpSender
from sidecar.protocols import Clock

log = structlog.get_logger(__name__)


class MetricExport:
    """A stage with one loop and one request in flight. `exported` and `failed` count pushes.

    A failed push is not retried: the next one carries newer values. *read* returns the current metrics.
    """

    name = "metric-export"

    def __init__(
        self,
        read: Callable[[], MetricsData | None],
        sender: OtlpSender,
        clock: Clock,
        *,
        interval_s: float,
        timeout_s: float,
        drain_s: float,
    ) -> None:
        self._read = read
        self._sender = sender
        self._clock = clock
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._drain_s = drain_s
        self._task: asyncio.Task[None] | None = None
        self._push: asyncio.Future[None] | None = None
        self._silent = False
        self.exported = 0
        self.failed = 0

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start the loop; the first push comes after one interval."""
        self._task = tasks.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Push once more, for a bounded time."""
        if self._task is None:
            return
        self._task.cancel()
        self._task = None
        try:
            async with asyncio.timeout(self._drain_s):
                await self.push(self._drain_s)
        except TimeoutError:
            log.info("metrics.last_push_left", waited_s=self._drain_s)
        finally:
            self._sender.close()

    async def push(self, timeout_s: float) -> None:
        """Send the current metrics; if a push is in flight, wait for that one instead."""
        if self._push is None:
            data = self._read()
            if data is None:
                return
            self._push = self._sent(encode_metrics(data).SerializeToString(), timeout_s)
        await asyncio.shield(self._push)

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._interval_s)
            try:
                await self.push(self._timeout_s)
            except Exception:  # costs only this push
                self.failed += 1
                log.exception("metrics.push_failed")

    def _sent(self, request: bytes, timeout_s: float) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def settle(answer: Answer) -> None:
            self._push = None
            self._count(answer)
            done.set_result(None)

        def send() -> None:
            try:
                answer = self._sender.send(request, timeout_s)
            except Exception as exc:  # noqa: BLE001 - the sender was closed under it, or has a fault: this push failed
                answer = Answer("refused", f"{type(exc).__name__} {exc}")
            with suppress(RuntimeError):  # the loop is closed: `stop` has given up waiting
                loop.call_soon_threadsafe(settle, answer)

        threading.Thread(target=send, name="metric-push", daemon=True).start()
        return done

    def _count(self, answer: Answer) -> None:
        if answer.verdict == "delivered":
            self.exported += 1
            self._silent = False
            return
        self.failed += 1
        if not self._silent:  # many collectors have no metrics pipeline: log it once
            log.info("metrics.not_taken", why=answer.why)
            self._silent = True
