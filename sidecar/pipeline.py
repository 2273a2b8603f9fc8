"""Builds every room and joins them: the one module that imports them all.

receivers ──► spans ──► store ──► analysis ──► gateway /log
                └──► export ──► collector
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec
import structlog
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor

from sidecar import pipeline_metrics
from sidecar.analysis.cycle import CycleLoop, Step
from sidecar.analysis.error_analyzer import ErrorAnalyzer
from sidecar.analysis.incidents import CORRECTION, IncidentBook
from sidecar.analysis.llm import LakehouseModel
from sidecar.analysis.playbook_consolidator import PlaybookConsolidator
from sidecar.analysis.success_book import SuccessBook
from sidecar.clock import SystemClock
from sidecar.errors import StartError
from sidecar.export.otlp_exporter import SpanExport, span_exporter
from sidecar.export.outbox import Outbox
from sidecar.gateway.gateway_log import HttpGatewayLog
from sidecar.gateway.observed_gateway import ObservedGateway
from sidecar.lifecycle import serve
from sidecar.logs import configure_if_unset
from sidecar.metrics import OwnMetrics
from sidecar.model import Decision, ObservedOp
from sidecar.normalize import Normalizer
from sidecar.pipeline_doors import health_routes, http_routes
from sidecar.protocols import Clock, JournalFile, Stage
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
from sidecar.spans.span_processor import OpSpanProcessor
from sidecar.store.checkpoint import Checkpoint
from sidecar.store.commit_log import CommitLog
from sidecar.store.decisions import Decisions, Nowhere
from sidecar.store.duplicates import Duplicates
from sidecar.store.fan_out import FanOut
from sidecar.store.feed import OpFeed
from sidecar.store.folder_lock import FolderLock
from sidecar.store.journal_file import AppendFile
from sidecar.store.outbox_table import OutboxTable
from sidecar.store.ring import OpRing
from sidecar.store.state import StateStore

log = structlog.get_logger(__name__)

_encode = msgspec.json.Encoder().encode
_PENDING_BYTES = 32 * 2**20  # what a journal holds in memory while the disk is slow
_CONSOLIDATE_EVERY = 5
_STEP_TIMEOUT_S = 60.0


class _Closing:
    """A stage that only closes something at stop."""

    def __init__(self, name: str, close: Any) -> None:
        self.name = name
        self._close = close

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Close it."""
        result = self._close()
        if result is not None:
            await result


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
        self._clock = clock or SystemClock()
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
        self.incidents = IncidentBook()
        self.successes = SuccessBook()
        self.duplicates = Duplicates(clock)
        self.settled = FanOut(self.ring, [self.feed, self.incidents, self.successes, self.duplicates])
        self.ops_log: CommitLog[ObservedOp] = CommitLog(
            "ops",
            self._file("ops.jsonl"),
            _encode,
            self.settled,
            clock,
            max_bytes=_PENDING_BYTES,
            sync_every_s=settings.fsync_every_s,
            commit_timeout_s=settings.commit_timeout,
        )
        self.decisions_log: CommitLog[Decision] = CommitLog(
            "decisions",
            self._file("decisions.jsonl"),
            _encode,
            Nowhere(),
            clock,
            max_bytes=_PENDING_BYTES,
            sync_every_s=settings.fsync_every_s,
            commit_timeout_s=settings.commit_timeout,
        )
        self.decisions = Decisions(self.decisions_log, clock)

    def _file(self, name: str) -> Any:
        def open_journal() -> JournalFile:
            file: JournalFile = self._open_file(self._data_dir / name)
            return file

        return open_journal

    def _build_spans(self, env: Mapping[str, str]) -> None:
        settings = self._settings
        self.op_processor = OpSpanProcessor(self.ops_log)
        processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # the SDK's is not annotated
        processors.add_span_processor(self.op_processor)
        self.export: SpanExport | None = None
        if settings.export_endpoint:
            whole_path = bool(settings.otlp_traces_endpoint)
            exporter = span_exporter(settings.export_endpoint, settings.export_protocol, whole_path=whole_path)
            self.export = SpanExport(exporter, settings.grace / 4)
            processors.add_span_processor(self.export)
        resource = our_resource(settings.service_name, env)
        sampler = export_sampler(settings.traces_sampler, settings.traces_sampler_arg)
        self._provider = tracer_provider(resource, sampler, processors)
        self._tracer = self._provider.get_tracer(SCOPE_NAME, our_version())
        self.recorder = OpRecorder(self._provider)
        self.metrics = OwnMetrics(resource)

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

    def _build_analysis(self) -> None:
        settings, clock = self._settings, self._clock
        gateway_log = HttpGatewayLog(self._own_client, settings.gateway_url, clock)
        state = StateStore(self._data_dir, clock)
        self.outbox = Outbox(OutboxTable(state), gateway_log, clock, random.random)
        self.model = LakehouseModel(
            self._own_client,
            settings.lakehouse_url,
            settings.model,
            settings.model_timeout,
            clock,
            mask=self.normalizer.text,
        )
        self.analyzer = ErrorAnalyzer(
            self.incidents,
            self.model,
            self.decisions,
            outbox=self.outbox,
            tracer=self._tracer,
            clock=clock,
            model_name=settings.model,
        )
        self.consolidator = PlaybookConsolidator(self.successes, self.decisions, self.outbox, self._tracer, clock)
        self.corrections = CorrectionsTailer(
            Path(settings.overseer_corrections_path),
            self.recorder,
            self.normalizer,
            clock,
            self.ring.failures_like,
        )
        self.settled.add(self.corrections)
        self.checkpoint = Checkpoint(
            state,
            self.ring,
            ops_path=self._data_dir / "ops.jsonl",
            ops_position=self.ops_log,
            decisions_path=self._data_dir / "decisions.jsonl",
            decisions_position=self.decisions_log,
            derived={"incidents": self.incidents, "successes": self.successes, "seen_ids": self.duplicates},
            on_decision={"diagnosis": self.analyzer.restore, "playbook": self.consolidator.restore},
            corrections=self.corrections,
            correction_source=CORRECTION,
        )
        steps = [
            Step("tail", 1, self._tail, _STEP_TIMEOUT_S),
            Step("analyse", 1, self.analyzer.analyze, settings.model_timeout + _STEP_TIMEOUT_S),
            Step("consolidate", _CONSOLIDATE_EVERY, self.consolidator.consolidate, _STEP_TIMEOUT_S),
            Step("save", 1, self._save, _STEP_TIMEOUT_S),
        ]
        self.cycle = CycleLoop(steps, self._cycle_counts, self._tracer, clock, settings.cycle)

    async def _tail(self) -> None:
        pulled = await self.corrections.tail()
        if pulled:
            log.info("corrections.pulled", corrections=pulled)

    async def _save(self) -> None:
        await self.outbox.catch_up()  # behind a checkpoint, the journal brings no post back
        await self.checkpoint.save()

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
        self.intake = EventIntake(self.recorder, self.normalizer, clock, self.ring.__len__, self.duplicates)
        self.guard = Guard(TokenStore(settings.token, settings.token_file, clock), settings.allowed_hosts.split(","))
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
        stages: list[Stage] = [
            _Closing("feed", self.feed.close),
            self._http,
            self.cycle,
            _Closing("corrections", self.corrections.close),
            self.outbox,
            self.checkpoint,
            self.ops_log,
            self.decisions_log,
            _Closing("client", self._close_clients),
        ]
        if self.export is not None:
            stages.append(self.export)
        return [*stages, self._health]

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
