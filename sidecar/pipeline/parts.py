"""All that stands behind the doors, built in the order that data flows.

A door, `/stats` and the metrics are handed these parts, never the observer that owns them all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from sidecar.langfuse.judged_ops import JudgedOps
from sidecar.normalize import Normalizer
from sidecar.pipeline.analysis import Analysis
from sidecar.pipeline.entrance import Entrance
from sidecar.pipeline.gateway import Gateway
from sidecar.pipeline.proxy import advise
from sidecar.pipeline.spans import Spans
from sidecar.pipeline.store import Store
from sidecar.protocols import Clock
from sidecar.redaction import Redactor
from sidecar.settings import Settings


class Parts:
    """What happens to operations behind every door. `judged` remembers those that a later score may judge."""

    def __init__(
        self,
        settings: Settings,
        env: Mapping[str, str],
        clock: Clock,
        open_file: Any,
        draw: Callable[[], float] | None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.normalizer = normalizer = Normalizer(Redactor(settings.redact.split(",")))
        self.store = Store(settings, clock, open_file)
        self.spans = Spans(settings, env, self.store.journals.ops, clock)
        self.gateway = Gateway(settings, self.spans.recorder, normalizer, clock)
        self.analysis = Analysis(
            settings,
            self.store,
            self.spans,
            self.gateway.clients.own,
            normalizer=normalizer,
            clock=clock,
            draw=draw or random.SystemRandom().random,
        )
        advise(self.gateway.proxy, settings, self.analysis.learning.advisor)
        self.retention = self.store.retention(settings, clock, self.analysis.checkpoint)
        if self.spans.export is not None:
            self.retention.journals[0].followers.append(self.spans.export.source)
        self.entrance = Entrance(settings, self.store, self.spans.recorder, normalizer=normalizer, clock=clock)
        self.judged = JudgedOps(normalizer, self.store.books.latest.knows)
        self.store.settled.add(self.judged)
