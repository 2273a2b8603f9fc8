"""Builds the Langfuse parts: its doors, the desk that turns observations into ops, forwarding to a Langfuse server.

Langfuse SDKs ──► doors ──► decisions ──► desk ──► span processor ──► ring, journal, analysis
                    └─────► spool ──► Langfuse ──► poller ──► desk
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from sidecar.analysis.cycle import Step
from sidecar.export.http_client import tls_context
from sidecar.export.langfuse_relay import LangfuseRelay
from sidecar.langfuse.desk import LangfuseDesk
from sidecar.langfuse.judged_ops import MOST_BYTES, MOST_OPS, JudgedOps
from sidecar.langfuse.observations import Observations
from sidecar.langfuse.score_rules import ScoreRules
from sidecar.langfuse.verdicts import Verdicts
from sidecar.metrics import OwnMetrics
from sidecar.model import ObservedOp
from sidecar.pipeline.langfuse_forward import Forward
from sidecar.pipeline.otlp_doors import OtlpDoors
from sidecar.pipeline.parts import Parts
from sidecar.pipeline.stages import Closing
from sidecar.protocols import Stage
from sidecar.receivers.bodies import BodyReader
from sidecar.receivers.correction_op import CorrectionReader
from sidecar.receivers.langfuse_events import LangfuseReader
from sidecar.receivers.langfuse_poller import LangfusePoller
from sidecar.receivers.langfuse_receiver import (
    API,
    MAX_BYTES,
    IngestionResource,
    LangfuseCounters,
    LangfuseHealthResource,
    LangfuseTracesResource,
    ScoresResource,
)
from sidecar.receivers.langfuse_relayed import (
    MediaResource,
    MediaStatusResource,
    ProjectsResource,
    PromptResource,
    PromptsResource,
)
from sidecar.receivers.otlp_wire import MAX_REQUEST_BYTES
from sidecar.spans.conventions_table import FAILING_LABELS, Kind
from sidecar.spans.fragment_reader import FragmentReader
from sidecar.spans.same_operation import kind_of
from sidecar.store.cursor_row import CursorRow
from sidecar.store.journal_reader import JournalReader
from sidecar.version import our_version

_STEP_SPARE_S = 30.0  # for the journal, beyond the server's time-out
_TAIL_OPS = 4 * MOST_OPS  # ops of all kinds; those that can be judged are remembered
_SLICE = 100


class Langfuse:
    """All Langfuse parts: `routes` for the main door, stages, and `forward` if it is set."""

    def __init__(self, parts: Parts, otlp: OtlpDoors) -> None:
        settings, clock, normalizer = parts.settings, parts.clock, parts.normalizer
        books, recorder, judged = parts.store.books, parts.spans.recorder, parts.judged
        self._settings = settings
        self.memory: Stage = _Memory(judged, Path(settings.data_dir) / "ops.jsonl")
        self.counters = LangfuseCounters()
        self.book = books.langfuse
        rules = ScoreRules(settings.langfuse_failing, FAILING_LABELS)
        verdicts = Verdicts(
            judged,
            rules,
            normalizer,
            correction_op=CorrectionReader(normalizer, clock).op,
            endpoint=otlp.names.bounded,
        )
        self.observations = Observations(
            judged,
            reader=FragmentReader(otlp.conventions),
            witness=otlp.witness,
            recorder=recorder,
            known=books.duplicates,
            is_call=lambda op: kind_of(op) is Kind.LANGFUSE,
        )
        self.desk = LangfuseDesk(
            self.book,
            self.observations,
            verdicts,
            recorder=recorder,
            decisions=parts.store.journals.decide,
            known=books.duplicates,
            clock=clock,
            window_s=settings.langfuse_window,
        )
        self.reader = LangfuseReader(normalizer)
        self.forward = Forward(settings, clock) if settings.langfuse_forward_url else None
        self._closing: list[Stage] = []
        self.poller = self._poller(parts) if settings.langfuse_pull_url else None
        self.routes = self._routes(parts, otlp)

    @property
    def stages(self) -> list[Stage]:
        """Stages before the journals, in flow order."""
        return [*self._closing, self.desk, self.memory]

    @property
    def spools(self) -> list[Stage]:
        """Stages after the journals."""
        return [self.forward.log] if self.forward is not None else []

    @property
    def lanes(self) -> list[Stage]:
        """Export lanes, which come last."""
        return [self.forward.lane] if self.forward is not None else []

    def _routes(self, parts: Parts, otlp: OtlpDoors) -> dict[str, object]:
        settings, clock, budget = parts.settings, parts.clock, parts.entrance.budget
        forward = self.forward.door if self.forward is not None else None
        spans = BodyReader(budget, max_bytes=MAX_REQUEST_BYTES)
        bodies = BodyReader(budget, max_bytes=MAX_BYTES)
        shared: dict[str, Any] = {"counters": self.counters, "forward": forward}
        relay = None
        if self.forward is not None:
            keys = settings.langfuse_forward_public_key, settings.langfuse_forward_secret_key
            relay = LangfuseRelay(settings.langfuse_forward_url, *keys)
            self._closing.append(Closing("langfuse-relay", relay.close))
        return {
            f"{API}/otel/v1/traces": LangfuseTracesResource(otlp.intake, spans, forward),
            f"{API}/ingestion": IngestionResource(self.reader, self.desk, bodies, clock, **shared),
            f"{API}/scores": ScoresResource(self.reader, self.desk, bodies, clock, **shared),
            f"{API}/health": LangfuseHealthResource(our_version()),
            f"{API}/projects": ProjectsResource(relay, bodies),
            f"{API}/v2/prompts": PromptsResource(relay, bodies),
            f"{API}/v2/prompts/{{name:path}}": PromptResource(relay, bodies),
            f"{API}/media": MediaResource(relay, bodies),
            f"{API}/media/{{media_id}}": MediaStatusResource(relay, bodies),
        }

    def _poller(self, parts: Parts) -> LangfusePoller:
        settings = parts.settings
        client = httpx.AsyncClient(
            base_url=settings.langfuse_pull_url,
            auth=(settings.langfuse_pull_public_key, settings.langfuse_pull_secret_key),
            verify=tls_context(settings.langfuse_pull_url),
            limits=httpx.Limits(max_connections=1),
        )
        self._closing.append(Closing("langfuse-poller", client.aclose))
        return LangfusePoller(
            client,
            self.reader,
            self.desk,
            CursorRow(parts.store.state, "langfuse"),
            parts.clock,
            overlap_s=settings.langfuse_pull_overlap,
            timeout_s=settings.langfuse_pull_timeout,
        )

    def pull_step(self) -> Step:
        """The cycle's step that reads a Langfuse server; it does nothing if none is set."""
        return Step("pull", 1, self._pull, self._settings.langfuse_pull_timeout + _STEP_SPARE_S)

    async def _pull(self) -> None:
        if self.poller is not None:
            await self.poller.pull()

    @property
    def not_forwarded(self) -> int:
        """Items lost before Langfuse accepted them."""
        return self.forward.lost if self.forward is not None else 0

    def stats(self) -> dict[str, Any]:
        """Statistics for `/stats`."""
        desk, observations, counters = self.desk, self.observations, self.counters
        said: dict[str, Any] = {
            "events": counters.events,
            "scores": counters.scores,
            "sdk_logs": counters.logs,
            "dataset_run_items": counters.run_items,
            "invalid": counters.invalid,
            "recorded": observations.recorded,
            "amended": observations.amended,
            "judged": desk.judged,
            "repeated": observations.repeated + desk.repeated,
            "unfinished": observations.unfinished,
            "observations_open": self.book.open_count,
            "scores_waiting": self.book.waiting_count,
        }
        if self.forward is not None:
            said["forward"] = self.forward.stats()
        if self.poller is not None:
            said["pull"] = self.poller.stats()
        return said


def register(metrics: OwnMetrics, langfuse: Langfuse) -> None:
    """Register the counters as *metrics*."""
    count, level = metrics.observe_count, metrics.observe_level
    desk, counters = langfuse.desk, langfuse.counters
    count("observer.langfuse.events", "{event}", "Observation and trace events accepted", lambda: counters.events)
    count("observer.langfuse.scores", "{score}", "Scores accepted", lambda: counters.scores)
    count("observer.langfuse.invalid", "{item}", "Items refused as invalid", lambda: counters.invalid)
    observations = langfuse.observations
    count("observer.langfuse.ops", "{op}", "Ops from events and pulled observations", lambda: observations.recorded)
    count("observer.langfuse.judged", "{score}", "Scores that became ops", lambda: desk.judged)
    count("observer.langfuse.failures", "{round}", "Rounds that failed; they are retried", lambda: desk.failed)
    level("observer.langfuse.open", "{observation}", "Observations without an end", lambda: langfuse.book.open_count)
    level("observer.langfuse.waiting", "{score}", "Scores that wait for their op", lambda: langfuse.book.waiting_count)
    poller = langfuse.poller
    if poller is not None:
        count("observer.langfuse.pulled", "{row}", "Rows read", lambda: poller.observations + poller.scores)
        count("observer.langfuse.pull.failures", "{request}", "Requests that failed", lambda: poller.failures)
        count("observer.langfuse.pull.too_large", "{page}", "Too large, requested again", lambda: poller.too_large)
        count("observer.langfuse.pull.limited", "{request}", "Requests answered with 429", lambda: poller.limited)
        count("observer.langfuse.pull.gap", "s", "Time that will not be read any more", lambda: poller.gap_s)
        level("observer.langfuse.pull.lag", "s", "Time since both lists were read completely", lambda: poller.lag_s)
    forward = langfuse.forward
    if forward is None:
        return
    count("observer.langfuse.forwarded", "{item}", "Items that Langfuse accepted", lambda: forward.lane.exported)
    count("observer.langfuse.forward.failed", "{item}", "Items lost, by cause", lambda: forward.lane.failed, "cause")
    count("observer.langfuse.forward.retries", "{request}", "Failed attempts", lambda: forward.lane.retries)
    level("observer.langfuse.forward.waiting", "By", "Bytes on disk not sent yet", lambda: forward.spool.waiting_bytes)


class _Memory:
    """Loads the ops that can be judged from the journal's tail, before anything new arrives."""

    name = "langfuse-memory"

    def __init__(self, judged: JudgedOps, path: Path) -> None:
        self._judged = judged
        self._path = path

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Read the journal's tail."""
        for number, op in enumerate(JournalReader(self._path).tail(ObservedOp, _TAIL_OPS, MOST_BYTES), 1):
            self._judged.consume(op)
            if not number % _SLICE:
                await asyncio.sleep(0)

    async def stop(self) -> None:
        """Does nothing: the tail is read again at the next start."""
