"""The whole observer: joins the parts that this package builds, names them, and orders their stages.

receivers ──► spans ──► store ──► analysis ──► advice ──► agents
                │                     └──────► gateway /log, webhook
                └──► export ──► collector
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidecar.clock import SystemClock
from sidecar.ids import made_ms
from sidecar.lifecycle import serve
from sidecar.logs import configure_if_unset
from sidecar.open_place import WAY_BACK
from sidecar.pipeline import metrics
from sidecar.pipeline.doors import Doors
from sidecar.pipeline.langfuse import Langfuse
from sidecar.pipeline.otlp_doors import OtlpDoors
from sidecar.pipeline.parts import Parts
from sidecar.pipeline.stages import Closing, Opening, StageGroup
from sidecar.pipeline.stats import more_stats
from sidecar.protocols import Clock, Stage
from sidecar.settings import Settings
from sidecar.spans.same_operation import MOST_OPERATIONS, WINDOW_S
from sidecar.store.folder_lock import FolderLock, LockWatch
from sidecar.store.journal_file import AppendFile


class Observer:
    """The whole observer: `async with Observer(settings) as observer`, or `run` until told to stop.

    `gateway` is the wrapper for Python agents in this process; `port` and `health_port` are where it listens.
    *open_file* opens the file under a journal; tests inject faults there. *draw* throws the
    coins by which a task is told advice or not (default: the system's random numbers).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        env: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        open_file: Any = AppendFile,
        draw: Callable[[], float] | None = None,
    ) -> None:
        self._settings = settings
        self._ready = False
        self._lock = FolderLock(Path(settings.data_dir))
        self._embedded: tuple[asyncio.Task[None], asyncio.Event] | None = None
        self._parts = parts = Parts(settings, env or {}, clock or SystemClock(), open_file, draw)
        self._name(parts)
        self.otlp = OtlpDoors(parts)
        self.langfuse = Langfuse(parts, self.otlp)
        self.cycle = parts.analysis.cycle(self.langfuse.pull_step())  # pulled last: a server outside may hang
        self._doors = Doors(
            parts,
            {**self.otlp.routes, **self.langfuse.routes},
            unready=self._unready,
            stats=lambda: more_stats(parts, self.langfuse, self.cycle),
        )
        metrics.register(parts, self.otlp, self.langfuse, self.cycle)

    def _name(self, parts: Parts) -> None:
        """Name the parts that the command line and tests look at."""
        store, spans, analysis, entrance = parts.store, parts.spans, parts.analysis, parts.entrance
        self.clock, self.retention = parts.clock, parts.retention
        self.ring, self.feed, self.books, self.settled = store.ring, store.feed, store.books, store.settled
        self.ops_log, self.op_processor = store.journals.ops, spans.op_processor
        self.metrics, self.export = spans.metrics, spans.export
        self.gateway, self.proxy = parts.gateway.wrapper, parts.gateway.proxy
        self.corrections, self.life_cycle, self.analyzer = analysis.corrections, analysis.life_cycle, analysis.analyzer
        self.learning, self.consolidator, self.model = analysis.learning, analysis.consolidator, analysis.model
        self.outbox, self.webhook, self.checkpoint = analysis.outbox, analysis.webhook, analysis.checkpoint
        self.budget, self.intake = entrance.budget, entrance.intake
        self.tokens, self.guard = entrance.tokens, entrance.guard

    @property
    def ready(self) -> bool:
        """Whether every stage has started and none is stopping."""
        return self._ready

    def _unready(self) -> str:
        """Why the observer is not ready; "" if it is."""
        if not self._ready:
            return "starting or stopping"
        gone = self._parts.store.journals.gone
        return f"{gone}: {WAY_BACK}" if gone else ""

    @property
    def port(self) -> int:
        """The port of the HTTP door."""
        return self._doors.http.port

    @property
    def health_port(self) -> int:
        """The port of the health door."""
        return self._doors.health.port

    @property
    def routes(self) -> dict[str, object]:
        """Path → resource of the HTTP door."""
        return self._doors.routes

    async def run(self, stopping: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Start everything, set *ready*, run until *stopping* is set, drain. Raises StartError."""
        self._lock.acquire()
        try:
            if self._settings.require_gateway:
                await self._parts.gateway.require()

            def now_ready(is_ready: bool) -> None:
                self._ready = is_ready
                if is_ready and ready is not None:
                    ready.set()

            await serve(self._stages(), stopping, self._settings.grace, now_ready)
        finally:
            self.metrics.shutdown()
            self._lock.release()

    async def __aenter__(self) -> Self:
        configure_if_unset(self._settings.log_format, self._settings.log_level)
        stopping, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(self.run(stopping, ready), name="observer")
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # entering was cancelled: leave nothing running
            running.cancel()
            await asyncio.wait([running])
            raise
        finally:
            waiting.cancel()
        if running.done():
            await running
        self._embedded = (running, stopping)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._embedded is not None:
            running, stopping = self._embedded
            stopping.set()
            await running

    def _stages(self) -> list[Stage]:
        """All stages in flow order: started from last to first, stopped from first to last."""
        parts, export, metric_export = self._parts, self.export, self._parts.spans.metric_export
        sent: list[Stage] = [*(export.lanes if export is not None else ())]
        if metric_export is not None:
            sent.append(metric_export)
        return [
            Closing("feed", self.feed.close),
            *self.otlp.stages,
            self._doors.http,
            *([self.proxy] if self.proxy is not None else ()),
            self.cycle,
            *self.langfuse.stages,
            Closing("corrections", self.corrections.close),
            self.retention,
            LockWatch(self._lock, lambda: not parts.store.journals.gone, self.clock),
            self.learning,
            *([self.outbox] if self._settings.gateway_log else ()),
            Opening("learning", lambda: self.books.in_order.begin(parts.store.journals.decide)),
            Opening("one-op", self._remember_last),
            *self.webhook.stages,
            self.checkpoint,
            *([export.begins] if export is not None else ()),
            self.ops_log,
            parts.store.journals.decisions,
            Closing("client", parts.gateway.clients.close),
            *([export.spool_log] if export is not None else ()),
            *self.langfuse.spools,
            StageGroup("export", [*sent, *self.langfuse.lanes]),
            self._doors.health,
        ]

    def _remember_last(self) -> None:
        """Load the last journalled ops: spans left unacknowledged by a crash are sent again, and must be recognised."""
        since_ms = self.clock.time_ns() // 1_000_000 - WINDOW_S * 1000
        last = [op for op in islice(self.ring.newest_first(), MOST_OPERATIONS) if made_ms(op.op_id) >= since_ms]
        self.op_processor.remember(reversed(last))
