"""Builds every room and joins them: the one module that imports them all.

receivers ──► spans ──► store ──► analysis ──► gateway /log
                └──► export ──► collector
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx
import structlog
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor

from sidecar import pipeline_metrics
from sidecar.analysis.cycle import CycleLoop, Step
from sidecar.analysis.error_analyzer import DECISION_KIND as DIAGNOSIS
from sidecar.analysis.error_analyzer import ErrorAnalyzer
from sidecar.analysis.incidents import CORRECTION
from sidecar.analysis.life_cycle import LifeCycle
from sidecar.analysis.playbook_consolidator import DECISION_KIND as PLAYBOOK
from sidecar.analysis.playbook_consolidator import PlaybookConsolidator
from sidecar.clock import SystemClock
from sidecar.errors import StartError
from sidecar.export.outbox import Outbox
from sidecar.gateway.gateway_log import HttpGatewayLog
from sidecar.gateway.observed_gateway import ObservedGateway
from sidecar.ids import made_ms
from sidecar.langfuse.judged_ops import JudgedOps
from sidecar.lifecycle import serve
from sidecar.logs import configure_if_unset
from sidecar.metrics import OwnMetrics
from sidecar.normalize import Normalizer
from sidecar.pipeline_advice import LearningLoop
from sidecar.pipeline_books import Books
from sidecar.pipeline_doors import health_routes, http_routes
from sidecar.pipeline_incidents import WebhookRoom, local_model
from sidecar.pipeline_journals import Journals
from sidecar.pipeline_langfuse import Langfuse, pull_step
from sidecar.pipeline_otlp import OtlpDoors
from sidecar.pipeline_proxy import advise, gateway_proxy
from sidecar.pipeline_stages import Closing, Opening, Together
from sidecar.protocols import Clock, Stage
from sidecar.receivers.bodies import ByteBudget
from sidecar.receivers.corrections_tailer import CorrectionsTailer
from sidecar.receivers.event_resource import EventIntake
from sidecar.receivers.guards import Guard
from sidecar.receivers.http_app import create_app
from sidecar.receivers.http_receiver import HttpReceiver, tls_context
from sidecar.receivers.tokens import TokenStore
from sidecar.redaction import Redactor
from sidecar.settings import Settings
from sidecar.spans.provider import export_sampler, our_resource, our_version, tracer_provider
from sidecar.spans.recorder import SCOPE_NAME, OpRecorder
from sidecar.spans.same_operation import MOST_OPERATIONS, WINDOW_S
from sidecar.spans.span_processor import OpSpanProcessor
from sidecar.store.checkpoint import Checkpoint
from sidecar.store.fan_out import FanOut
from sidecar.store.feed import OpFeed
from sidecar.store.folder_lock import FolderLock
from sidecar.store.journal_file import AppendFile
from sidecar.store.op_counts import OpCounts
from sidecar.store.outbox_table import OutboxTable
from sidecar.store.retention import Retention
from sidecar.store.ring import OpRing
from sidecar.store.state import StateStore

if TYPE_CHECKING:
    from sidecar.export.metric_export import MetricExport
    from sidecar.pipeline_export import Export

log = structlog.get_logger(__name__)

_CONSOLIDATE_EVERY = 5
_STEP_TIMEOUT_S = 60.0


class Observer:
    """The whole observer in one object: `async with Observer(settings) as observer`, or `run` until told to stop.

    `gateway` is the wrapper for Python agents in this process; `port` and `health_port` tell where it listens.
    *open_file* opens the file under a journal; tests put faults there.
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
        self.clock = self._clock = clock or SystemClock()
        self._open_file = open_file
        self._data_dir = Path(settings.data_dir)
        self._ready = False
        self.normalizer = Normalizer(Redactor(settings.redact.split(",")))
        self._build_store()
        self._build_spans(env or {})
        self._build_gateway()
        self._build_analysis()
        self._build_doors()
        self._embedded: tuple[asyncio.Task[None], asyncio.Event] | None = None

    @property
    def ready(self) -> bool:
        """Every stage has started and none is stopping."""
        return self._ready

    @property
    def port(self) -> int:
        """The HTTP door's port."""
        return self._http.port

    @property
    def health_port(self) -> int:
        """The health door's port."""
        return self._health.port

    async def run(self, stopping: asyncio.Event, ready: asyncio.Event | None = None) -> None:
        """Start everything, set *ready*, run until *stopping* is set, drain. Raises StartError."""
        lock = FolderLock(self._data_dir)
        lock.acquire()
        try:
            if self._settings.require_gateway:
                await self._require_gateway()

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
        except asyncio.CancelledError:  # who wanted to enter has given up: nothing of ours stays behind
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

    def _build_store(self) -> None:
        settings, clock = self._settings, self._clock
        self.ring = OpRing(settings.ring, settings.ring_bytes)
        self.feed = OpFeed()
        self.books = Books(clock)
        self.op_counts = OpCounts(pipeline_metrics.SOURCES)
        self.settled = FanOut(self.ring, self.books.latest, [self.feed, self.op_counts, *self.books.derived.values()])
        self.journals = Journals(
            settings, clock, settled=self.settled, decided=self.books.decided, open_file=self._open_file
        )
        self.ops_log, self.decisions_log = self.journals.ops, self.journals.decisions
        self.decisions = self.journals.decide

    def _build_spans(self, env: Mapping[str, str]) -> None:
        settings = self._settings
        self.op_processor = OpSpanProcessor(self.ops_log, self._clock)
        processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's is not annotated
        processors.add_span_processor(self.op_processor)
        resource = our_resource(settings.service_name, env)
        self.metrics = OwnMetrics(resource)
        self.export: Export | None = None
        self.metric_export: MetricExport | None = None
        if settings.export_endpoint or settings.metrics_endpoint:
            from sidecar import pipeline_export  # noqa: PLC0415 - gRPC alone takes 10 MiB and 0.2 s

            if settings.export_endpoint:
                self.export = pipeline_export.Export(settings, resource, self._data_dir, self.ops_log, self._clock)
                processors.add_span_processor(self.export.processor)
            if settings.metrics_endpoint:
                self.metric_export = pipeline_export.metric_export(settings, self.metrics, self._clock)
        sampler = export_sampler(settings.traces_sampler, settings.traces_sampler_arg)
        self._provider = tracer_provider(resource, sampler, processors)
        self._tracer = self._provider.get_tracer(SCOPE_NAME, our_version())
        self.recorder = OpRecorder(self._provider)

    def _build_gateway(self) -> None:
        settings = self._settings
        # The gateway and the model stand beside us: a proxy from the environment must not come between.
        # Clients of their own: agents' calls that hang must not hold up what the observer itself has to say.
        unbounded = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self._client = httpx.AsyncClient(trust_env=False, timeout=settings.gateway_timeout, limits=unbounded)
        self._own_client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=10))
        self.gateway = ObservedGateway(
            settings.gateway_url,
            self._client,
            self._tracer,
            self.normalizer,
            self._clock,
            timeout_s=settings.gateway_timeout,
        )
        self.proxy = gateway_proxy(settings, self._tracer, self.normalizer, self._clock)

    def _build_analysis(self) -> None:
        settings, clock = self._settings, self._clock
        gateway_log = HttpGatewayLog(self._own_client, settings.gateway_url, clock)
        self.state = state = StateStore(self._data_dir, clock)
        self.outbox = Outbox(OutboxTable(state), gateway_log, clock, random.random)
        self.model = local_model(settings, self._own_client, clock, self.normalizer.text)
        self.life_cycle = LifeCycle(self.books.incidents, self.decisions, clock)
        self.webhook = WebhookRoom(settings.webhook_url, state, self._own_client, clock, self.books)
        self.analyzer = ErrorAnalyzer(
            self.books.incidents,
            self.model,
            self.decisions,
            rules=self.books.learning.rules,
            outbox=self.outbox,
            tracer=self._tracer,
            clock=clock,
            model_name=settings.model,
        )
        self.consolidator = PlaybookConsolidator(
            self.books.successes,
            self.books.learning.playbook,
            self.books.in_order,
            outbox=self.outbox,
            tracer=self._tracer,
            clock=clock,
        )
        self.learning = LearningLoop(settings, self.books.learning, self.books.in_order, clock)
        advise(self.proxy, settings, self.learning.advisor)
        self.corrections = CorrectionsTailer(
            Path(settings.overseer_corrections_path),
            self.recorder,
            self.normalizer,
            clock,
            self.ring.failures_like,
        )
        self.settled.add(self.corrections)
        self.books.decided.add(DIAGNOSIS, self.analyzer.tell)
        self.books.decided.add(PLAYBOOK, self.consolidator.tell)
        self.checkpoint = Checkpoint(
            state,
            self.ring,
            ops_path=self.journals.path(self.ops_log),
            ops_position=self.ops_log,
            decisions_path=self.journals.path(self.decisions_log),
            decisions_position=self.decisions_log,
            latest=self.books.latest,
            derived=self.books.derived,
            decided=self.books.decided,
            corrections=self.corrections,
            correction_source=CORRECTION,
            quiet=self.books.in_order.quiet,
            before_save=self.webhook.catch_up_both(self.outbox),  # behind a checkpoint, the journal brings no post back
        )
        self.retention = Retention(
            state,
            self.checkpoint.save,
            clock,
            ops=self.journals.bounded(self.ops_log),
            decisions=self.journals.bounded(self.decisions_log),
            max_age_s=settings.retention_s,
        )
        if self.export is not None:
            self.retention.journals[0].followers.append(self.export.source)
        steps = [
            Step("tail", 1, self._tail, _STEP_TIMEOUT_S),
            Step("incidents", 1, self.life_cycle.look, _STEP_TIMEOUT_S),
            Step("analyse", 1, self.analyzer.analyze, settings.model_timeout + _STEP_TIMEOUT_S),
            Step("learn", 1, self.learning.learn, _STEP_TIMEOUT_S),
            Step("consolidate", _CONSOLIDATE_EVERY, self.consolidator.consolidate, _STEP_TIMEOUT_S),
            Step("save", 1, self.checkpoint.save, _STEP_TIMEOUT_S),
            pull_step(self, settings),  # last: a server outside that hangs holds up nothing of the cycle
        ]
        self.cycle = CycleLoop(steps, self._cycle_counts, self._tracer, clock, settings.cycle)

    async def _tail(self) -> None:
        pulled = await self.corrections.tail()
        if pulled:
            log.info("corrections.pulled", corrections=pulled)

    def _cycle_counts(self) -> dict[str, int]:
        ring = self.ring
        return {
            "total_ops": len(ring),
            "successes": ring.successes,
            "failures": ring.failures,
            "scenario_ops": ring.by_source["scenario"],
            "langfuse_ops": ring.by_source["langfuse"],
            "overseer_corrections": ring.by_source[CORRECTION],
        }

    def _build_doors(self) -> None:
        settings, clock = self._settings, self._clock
        self.budget = ByteBudget(settings.inflight_bytes)
        self.intake = EventIntake(self.recorder, self.normalizer, clock, self.ring.__len__, self.books.duplicates)
        self.tokens = TokenStore(settings.token, settings.token_file, clock)
        self.guard = Guard(self.tokens, settings.allowed_hosts.split(","))
        self.judged = JudgedOps(self.normalizer, self.books.latest.knows)
        self.otlp = OtlpDoors(self, settings, self._provider)
        self.langfuse = Langfuse(self, settings, self._data_dir)
        self.settled.add(self.judged)
        pipeline_metrics.register(self)
        self._http = HttpReceiver(
            "http",
            create_app(http_routes(self), self.guard),
            host=settings.host,
            port=settings.port,
            request_timeout_s=settings.body_timeout,
            grace_s=settings.grace,
            tls=tls_context(settings.tls_cert, settings.tls_key),
        )
        self._health = HttpReceiver(
            "health",
            create_app(health_routes(self), None),
            host=settings.health_host,
            port=settings.health_port,
            request_timeout_s=settings.body_timeout,
            grace_s=1.0,
        )

    def _stages(self) -> list[Stage]:
        """In flow order: started from the last to the first, stopped from the first to the last."""
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
            self.outbox,
            Opening("learning", lambda: self.books.in_order.begin(self.decisions)),
            Opening("one-op", self._remember_last),
            *self.webhook.stages,
            self.checkpoint,
            *([export.begins] if export is not None else ()),
            self.ops_log,
            self.decisions_log,
            Closing("client", self._close_clients),
            *([export.spool_log] if export is not None else ()),
            *self.langfuse.spools,
            Together("export", [*sent, *self.langfuse.lanes]),
            self._health,
        ]

    def _remember_last(self) -> None:
        """Spans that a crash left unacknowledged are sent again: what was journalled of them must be known."""
        since_ms = self._clock.time_ns() // 1_000_000 - WINDOW_S * 1000
        last = [op for op in islice(self.ring.newest_first(), MOST_OPERATIONS) if made_ms(op.op_id) >= since_ms]
        self.op_processor.remember(reversed(last))

    async def _close_clients(self) -> None:
        await self._client.aclose()
        await self._own_client.aclose()

    async def _require_gateway(self) -> None:
        url = f"{self._settings.gateway_url.rstrip('/')}/health"
        try:
            response = await self._own_client.get(url, timeout=5.0)
            response.raise_for_status()
        except httpx.HTTPError as exc:
            raise StartError(
                "the gateway does not answer",
                self.normalizer.text(f"GET {url}: {exc or type(exc).__name__}"),
                "Start the gateway first, or leave OBSERVER_REQUIRE_GATEWAY unset",
            ) from exc
