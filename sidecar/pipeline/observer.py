"""The whole observer: joins the parts that this package builds, names them, and orders their stages.

receivers ──► spans ──► store ──► analysis ──► advice ──► agents
                │                     └──────► gateway /log, webhook
                └──► export ──► collector
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sidecar.clock import SystemClock
from sidecar.ids import made_ms
from sidecar.langfuse.judged_ops import JudgedOps
from sidecar.lifecycle import serve
from sidecar.logs import configure_if_unset
from sidecar.normalize import Normalizer
from sidecar.pipeline import metrics
from sidecar.pipeline.analysis import Analysis
from sidecar.pipeline.doors import health_receiver, http_receiver
from sidecar.pipeline.gateway import Clients, observed_gateway, require_gateway
from sidecar.pipeline.langfuse import Langfuse
from sidecar.pipeline.otlp_doors import OtlpDoors
from sidecar.pipeline.proxy import advise, gateway_proxy
from sidecar.pipeline.spans import Spans
from sidecar.pipeline.stages import Closing, Opening, Together
from sidecar.pipeline.store import Store
from sidecar.protocols import Clock, Stage
from sidecar.receivers.bodies import ByteBudget
from sidecar.receivers.event_intake import EventIntake
from sidecar.receivers.guards import Guard
from sidecar.receivers.tokens import TokenStore
from sidecar.redaction import Redactor
from sidecar.settings import Settings
from sidecar.spans.same_operation import MOST_OPERATIONS, WINDOW_S
from sidecar.store.folder_lock import FolderLock
from sidecar.store.journal_file import AppendFile


class Observer:
    """The whole observer: `async with Observer(settings) as observer`, or `run` until told to stop.

    `gateway` is the wrapper for Python agents in this process; `port` and `health_port` are where it listens.
    *open_file* opens the file under a journal; tests inject faults there.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        env: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        open_file: Any = AppendFile,
    ) -> None:
        self._settings = settings
        self._data_dir = Path(settings.data_dir)
        self._ready = False
        self._embedded: tuple[asyncio.Task[None], asyncio.Event] | None = None
        self.clock = clock or SystemClock()
        self.normalizer = Normalizer(Redactor(settings.redact.split(",")))
        store = self._build_store(open_file)
        spans = self._build_spans(env or {})
        self._build_gateway(spans)
        analysis = self._build_analysis(store, spans)
        self._build_doors(spans)
        self.cycle = analysis.cycle(self.langfuse.pull_step(settings))  # pulled last: a server outside may hang
        metrics.register(self)

    @property
    def ready(self) -> bool:
        """Whether every stage has started and none is stopping."""
        return self._ready

    @property
    def port(self) -> int:
        """The port of the HTTP door."""
        return self._http.port

    @property
    def health_port(self) -> int:
        """The port of the health door."""
        return self._health.port

    async def run(self, stopping: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Start everything, set *ready*, run until *stopping* is set, drain. Raises StartError."""
        lock = FolderLock(self._data_dir)
        lock.acquire()
        try:
            if self._settings.require_gateway:
                await require_gateway(self._clients.own, self._settings.gateway_url, self.normalizer.text)

            def now_ready(is_ready: bool) -> None:
                self._ready = is_ready
                if is_ready and ready is not None:
                    ready.set()

            await serve(self._stages(), stopping, self._settings.grace, now_ready)
        finally:
            self.metrics.shutdown()
            lock.release()

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

    def _build_store(self, open_file: Any) -> Store:
        store = Store(self._settings, self.clock, open_file)
        self.ring, self.feed, self.books = store.ring, store.feed, store.books
        self.op_counts, self.settled, self.state = store.op_counts, store.settled, store.state
        self.ops_log, self.decisions_log = store.journals.ops, store.journals.decisions
        self.decisions = store.journals.decide
        return store

    def _build_spans(self, env: Mapping[str, str]) -> Spans:
        spans = Spans(self._settings, env, self.ops_log, self.clock)
        self.op_processor, self.recorder, self.metrics = spans.op_processor, spans.recorder, spans.metrics
        self.export, self.metric_export = spans.export, spans.metric_export
        return spans

    def _build_gateway(self, spans: Spans) -> None:
        settings, normalizer, clock = self._settings, self.normalizer, self.clock
        self._clients = Clients(settings)
        self.gateway = observed_gateway(settings, self._clients, spans.recorder, normalizer, clock)
        self.proxy = gateway_proxy(settings, spans.recorder, normalizer, clock)

    def _build_analysis(self, store: Store, spans: Spans) -> Analysis:
        analysis = Analysis(
            self._settings, store, spans, self._clients.own, normalizer=self.normalizer, clock=self.clock
        )
        self.corrections, self.life_cycle, self.analyzer = analysis.corrections, analysis.life_cycle, analysis.analyzer
        self.learning, self.consolidator, self.model = analysis.learning, analysis.consolidator, analysis.model
        self.outbox, self.webhook, self.checkpoint = analysis.outbox, analysis.webhook, analysis.checkpoint
        self.retention = store.retention(self._settings, self.clock, self.checkpoint)
        if self.export is not None:
            self.retention.journals[0].followers.append(self.export.source)
        advise(self.proxy, self._settings, self.learning.advisor)
        return analysis

    def _build_doors(self, spans: Spans) -> None:
        settings, clock = self._settings, self.clock
        self.budget = ByteBudget(settings.inflight_bytes)
        self.intake = EventIntake(self.recorder, self.normalizer, clock, self.ring.__len__, self.books.duplicates)
        self.tokens = TokenStore(settings.token, settings.token_file, clock)
        self.guard = Guard(self.tokens, settings.allowed_hosts.split(","))
        self.judged = JudgedOps(self.normalizer, self.books.latest.knows)
        self.settled.add(self.judged)
        self.otlp = OtlpDoors(self, settings, spans.provider)
        self.langfuse = Langfuse(self, settings, self._data_dir)
        self._http = http_receiver(self, settings)
        self._health = health_receiver(self, settings)

    def _stages(self) -> list[Stage]:
        """All stages in flow order: started from last to first, stopped from first to last."""
        export = self.export
        sent: list[Stage] = [*(export.lanes if export is not None else ())]
        if self.metric_export is not None:
            sent.append(self.metric_export)
        return [
            Closing("feed", self.feed.close),
            *self.otlp.stages,
            self._http,
            *([self.proxy] if self.proxy is not None else ()),
            self.cycle,
            *self.langfuse.stages,
            Closing("corrections", self.corrections.close),
            self.retention,
            *([self.outbox] if self._settings.gateway_log else ()),
            Opening("learning", lambda: self.books.in_order.begin(self.decisions)),
            Opening("one-op", self._remember_last),
            *self.webhook.stages,
            self.checkpoint,
            *([export.begins] if export is not None else ()),
            self.ops_log,
            self.decisions_log,
            Closing("client", self._clients.close),
            *([export.spool_log] if export is not None else ()),
            *self.langfuse.spools,
            Together("export", [*sent, *self.langfuse.lanes]),
            self._health,
        ]

    def _remember_last(self) -> None:
        """Load the last journalled ops: spans left unacknowledged by a crash are sent again, and must be recognised."""
        since_ms = self.clock.time_ns() // 1_000_000 - WINDOW_S * 1000
        last = [op for op in islice(self.ring.newest_first(), MOST_OPERATIONS) if made_ms(op.op_id) >= since_ms]
        self.op_processor.remember(reversed(last))
