"""Builds the Langfuse parts: its doors, the desk that turns observations into ops, forwarding to a Langfuse server.

Langfuse SDKs ──► doors ──► decisions ──► desk ──► span processor ──► ring, journal, analysis
                    └─────► spool ──► Langfuse ──► poller ──► desk
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from sidecar.analysis.cycle import Step
from sidecar.export.http_client import tls_context
from sidecar.export.lane import ExportLane
from sidecar.export.langfuse_forward import ForwardDoor, LangfuseSender
from sidecar.export.langfuse_relay import LangfuseRelay
from sidecar.export.spool import Spool
from sidecar.export.spool_door import SpoolDoor
from sidecar.langfuse.desk import LangfuseDesk
from sidecar.langfuse.judged_ops import MOST_BYTES, MOST_OPS, JudgedOps
from sidecar.langfuse.observations import Observations
from sidecar.langfuse.score_rules import ScoreRules
from sidecar.langfuse.verdicts import Verdicts
from sidecar.model import ObservedOp
from sidecar.pipeline.spool_log import spool_log
from sidecar.pipeline.stages import Closing
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

if TYPE_CHECKING:
    from sidecar.pipeline.observer import Observer
    from sidecar.protocols import Clock, Stage
    from sidecar.settings import Settings

_STEP_SPARE_S = 30.0  # for the journal, beyond the server's time-out
_TIMEOUT_S = 10.0  # of one attempt to send
_DRAIN_SHARE = 4  # 1/4 of the grace period; the rest is for the journals
_TAIL_OPS = 4 * MOST_OPS  # ops of all kinds; those that can be judged are remembered
_SLICE = 100


class Forward:
    """Forwards requests of Langfuse clients to the server: `door` takes them, `log` and `lane` are stages."""

    def __init__(self, settings: Settings, data_dir: Path, clock: Clock) -> None:
        self.spool = Spool(
            data_dir / "langfuse-spool",
            clock,
            max_bytes=settings.spool_bytes,
            max_age_s=settings.spool_max_age,
            most_records=1,  # each record is a request of its own
        )
        self.log = spool_log("langfuse-spool", self.spool, settings, clock)
        self.way_in = SpoolDoor(self.log)
        self.door = ForwardDoor(self.way_in)
        sender = LangfuseSender(
            settings.langfuse_forward_url, settings.langfuse_forward_public_key, settings.langfuse_forward_secret_key
        )
        self.lane = ExportLane(
            "langfuse-forward",
            self.spool,
            sender,
            timeout_s=_TIMEOUT_S,
            drain_s=settings.grace / _DRAIN_SHARE,
            random=random.random,
        )

    def stats(self) -> dict[str, int]:
        """For `/stats`: items (spans, events, scores), and bytes waiting on disk."""
        return {
            "accepted": self.way_in.accepted,
            "delivered": self.lane.exported,
            "failed": sum(self.lane.failed.values()),
            "evicted": self.spool.evicted,
            "retries": self.lane.retries,
            "waiting_bytes": self.spool.waiting_bytes,
        }


class Langfuse:
    """All Langfuse parts: `routes` for the main door, stages, and `forward` if it is set."""

    def __init__(self, observer: Observer, settings: Settings, data_dir: Path) -> None:
        clock, normalizer = observer.clock, observer.normalizer
        self.judged = observer.judged
        self.memory: Stage = _Memory(self.judged, data_dir / "ops.jsonl")
        self.counters = LangfuseCounters()
        self.book = observer.books.langfuse
        rules = ScoreRules(settings.langfuse_failing, FAILING_LABELS)
        verdicts = Verdicts(
            self.judged,
            rules,
            normalizer,
            correction_op=CorrectionReader(normalizer, clock).op,
            endpoint=observer.otlp.names.bounded,
        )
        self.observations = Observations(
            self.judged,
            reader=FragmentReader(observer.otlp.conventions),
            witness=observer.otlp.witness,
            recorder=observer.recorder,
            known=observer.books.duplicates,
            is_call=lambda op: kind_of(op) is Kind.LANGFUSE,
        )
        self.desk = LangfuseDesk(
            self.book,
            self.observations,
            verdicts,
            recorder=observer.recorder,
            decisions=observer.decisions,
            known=observer.books.duplicates,
            clock=clock,
            window_s=settings.langfuse_window,
        )
        self.reader = LangfuseReader(normalizer)
        self.forward = Forward(settings, data_dir, clock) if settings.langfuse_forward_url else None
        self._closing: list[Stage] = []
        self.poller = self._poller(observer, settings) if settings.langfuse_pull_url else None
        self.routes = self._routes(observer, settings)

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

    def _routes(self, observer: Observer, settings: Settings) -> dict[str, object]:
        forward = self.forward.door if self.forward is not None else None
        spans = BodyReader(observer.budget, max_bytes=MAX_REQUEST_BYTES)
        bodies = BodyReader(observer.budget, max_bytes=MAX_BYTES)
        shared: dict[str, Any] = {"counters": self.counters, "forward": forward}
        relay = None
        if self.forward is not None:
            keys = settings.langfuse_forward_public_key, settings.langfuse_forward_secret_key
            relay = LangfuseRelay(settings.langfuse_forward_url, *keys)
            self._closing.append(Closing("langfuse-relay", relay.close))
        return {
            f"{API}/otel/v1/traces": LangfuseTracesResource(observer.otlp.intake, spans, forward),
            f"{API}/ingestion": IngestionResource(self.reader, self.desk, bodies, observer.clock, **shared),
            f"{API}/scores": ScoresResource(self.reader, self.desk, bodies, observer.clock, **shared),
            f"{API}/health": LangfuseHealthResource(our_version()),
            f"{API}/projects": ProjectsResource(relay, bodies),
            f"{API}/v2/prompts": PromptsResource(relay, bodies),
            f"{API}/v2/prompts/{{name:path}}": PromptResource(relay, bodies),
            f"{API}/media": MediaResource(relay, bodies),
            f"{API}/media/{{media_id}}": MediaStatusResource(relay, bodies),
        }

    def _poller(self, observer: Observer, settings: Settings) -> LangfusePoller:
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
            CursorRow(observer.state, "langfuse"),
            observer.clock,
            overlap_s=settings.langfuse_pull_overlap,
            timeout_s=settings.langfuse_pull_timeout,
        )

    def pull_step(self, settings: Settings) -> Step:
        """The cycle's step that reads a Langfuse server; it does nothing if none is set."""
        return Step("pull", 1, self._pull, settings.langfuse_pull_timeout + _STEP_SPARE_S)

    async def _pull(self) -> None:
        if self.poller is not None:
            await self.poller.pull()

    @property
    def not_forwarded(self) -> int:
        """Items lost before Langfuse accepted them: refused for good, evicted by a bound, or without room."""
        forward = self.forward
        if forward is None:
            return 0
        return sum(forward.lane.failed.values()) + forward.spool.evicted + forward.way_in.refused

    def stats(self) -> dict[str, Any]:
        """Statistics for `/stats`."""
        desk, observations, counters = self.desk, self.observations, self.counters
        said: dict[str, Any] = {
            "events": counters.events,
            "scores": counters.scores,
            "sdk_logs": counters.logs,
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


def register(observer: Observer) -> None:
    """Register the counters as metrics."""
    count, level = observer.metrics.observe_count, observer.metrics.observe_level
    langfuse = observer.langfuse
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
