"""Builds the analysis of failures, the learning of what works, and the cycle that runs both.

books ──► life cycle ──► analyzer ──► learning ──► consolidator ──► gateway /log
               └──► webhook                └──► advice
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import structlog

from sidecar.analysis.cycle import CycleLoop, Step
from sidecar.analysis.error_analyzer import DECISION_KIND as DIAGNOSIS
from sidecar.analysis.error_analyzer import ErrorAnalyzer
from sidecar.analysis.incidents import CORRECTION
from sidecar.analysis.life_cycle import LifeCycle
from sidecar.analysis.playbook_consolidator import DECISION_KIND as PLAYBOOK
from sidecar.analysis.playbook_consolidator import PlaybookConsolidator
from sidecar.export.no_posts import NoPosts
from sidecar.export.outbox import Outbox
from sidecar.gateway.gateway_log import HttpGatewayLog
from sidecar.normalize import Normalizer
from sidecar.pipeline.learning_loop import LearningLoop
from sidecar.pipeline.spans import Spans
from sidecar.pipeline.store import Store
from sidecar.pipeline.webhook import WebhookRoom, local_model
from sidecar.protocols import Clock
from sidecar.protocols_posts import PostSink
from sidecar.receivers.corrections_tailer import CorrectionsTailer
from sidecar.settings import Settings
from sidecar.store.outbox_table import OutboxTable
from sidecar.store.ring import OpRing

log = structlog.get_logger(__name__)

_CONSOLIDATE_EVERY = 5
_STEP_TIMEOUT_S = 60.0
_LOGGED_SOURCES: Final = {
    "scenario_ops": "scenario",
    "langfuse_ops": "langfuse",
    "overseer_corrections": CORRECTION,
    "mcp_ops": "mcp",
    "otlp_ops": "otlp",
}


class Analysis:
    """The rooms that work on the *store*'s books once a cycle; *client* serves model, gateway and webhook."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        spans: Spans,
        client: httpx.AsyncClient,
        *,
        normalizer: Normalizer,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._store = store
        self._spans = spans
        self._clock = clock
        books, decide = store.books, store.journals.decide
        gateway_log = HttpGatewayLog(client, settings.gateway_url, clock)
        self.outbox = Outbox(OutboxTable(store.state), gateway_log, clock, random.random, grace_s=settings.grace)
        posts: PostSink = self.outbox if settings.gateway_log else NoPosts()
        self.model = local_model(settings, client, clock, normalizer.text)
        self.life_cycle = LifeCycle(books.incidents, decide, clock)
        self.webhook = WebhookRoom(settings.webhook_url, store.state, client, clock, books, grace_s=settings.grace)
        self.analyzer = ErrorAnalyzer(
            books.incidents,
            self.model,
            decide,
            rules=books.learning.rules,
            outbox=posts,
            tracer=spans.tracer,
            clock=clock,
            model_name=settings.model,
        )
        self.consolidator = PlaybookConsolidator(
            books.successes,
            books.learning.playbook,
            books.in_order,
            outbox=posts,
            tracer=spans.tracer,
            clock=clock,
        )
        self.learning = LearningLoop(settings, books.learning, books.in_order, clock, draw)
        self.corrections = CorrectionsTailer(
            Path(settings.overseer_corrections_path), spans.recorder, normalizer, clock, store.ring.failures_like
        )
        store.settled.add(self.corrections)
        books.decided.add(DIAGNOSIS, self.analyzer.tell)
        books.decided.add(PLAYBOOK, self.consolidator.tell)
        # A replay after a checkpoint does not restore earlier posts, so posts are put before a checkpoint is saved.
        self.checkpoint = store.checkpoint(self.corrections, self.webhook.catch_up_both(self.outbox))

    def cycle(self, last: Step) -> CycleLoop:
        """The loop that runs all steps in order, with *last* at the end."""
        steps = [
            Step("tail", 1, self._tail, _STEP_TIMEOUT_S),
            Step("incidents", 1, self.life_cycle.look, _STEP_TIMEOUT_S),
            Step("analyse", 1, self.analyzer.analyze, self._settings.model_timeout + _STEP_TIMEOUT_S),
            Step("learn", 1, self.learning.learn, _STEP_TIMEOUT_S),
            Step("consolidate", _CONSOLIDATE_EVERY, self.consolidator.consolidate, _STEP_TIMEOUT_S),
            Step("save", 1, self.checkpoint.save, _STEP_TIMEOUT_S),
            last,
        ]
        ring = self._store.ring
        total = self._store.books.total
        return CycleLoop(
            steps, lambda: _counts(ring, total.operations), self._spans.tracer, self._clock, self._settings.cycle
        )

    @property
    def outboxes(self) -> list[Outbox]:
        """Those of the gateway's `/log` and, if it is set, of the webhook."""
        return [self.outbox, *([self.webhook.outbox] if self.webhook.outbox is not None else [])]

    async def _tail(self) -> None:
        pulled = await self.corrections.tail()
        if pulled:
            log.info("corrections.pulled", corrections=pulled)


def _counts(ring: OpRing, ever: int) -> dict[str, int]:
    """What the cycle's log line tells of the *ring*: the original's counts, and those that complete the sum."""
    of_sources = {name: ring.by_source[source] for name, source in _LOGGED_SOURCES.items()}
    return {
        "total_ops": len(ring),
        "successes": ring.successes,
        "failures": ring.failures,
        **of_sources,
        "other_ops": len(ring) - sum(of_sources.values()),
        "ever_recorded": ever,
    }
