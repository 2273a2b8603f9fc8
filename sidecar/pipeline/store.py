"""Builds the store: the journals, what consumes their records, and what keeps it all bounded.

ops ──► ops.jsonl ──► ring, feed, books ──► checkpoint (state.db)
decisions ──► decisions.jsonl ──► books ──┘
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sidecar.analysis.incidents import CORRECTION
from sidecar.pipeline.books import Books
from sidecar.pipeline.journals import Journals
from sidecar.protocols import Clock
from sidecar.receivers.corrections_tailer import CorrectionsTailer
from sidecar.settings import Settings
from sidecar.store.checkpoint import Checkpoint
from sidecar.store.fan_out import FanOut
from sidecar.store.feed import OpFeed
from sidecar.store.op_counts import OpCounts
from sidecar.store.retention import Retention
from sidecar.store.ring import OpRing
from sidecar.store.state import StateStore

SOURCES = ("mcp", "scenario", "langfuse", "overseer_correction", "otlp")
"""Those of ours: what senders call theirs is counted together."""


class Store:
    """Ring, feed, counts and books, which get each journalled op through `settled`; and the journals themselves."""

    def __init__(self, settings: Settings, clock: Clock, open_file: Any) -> None:
        self.ring = OpRing(settings.ring, settings.ring_bytes)
        self.feed = OpFeed()
        self.books = Books(clock)
        self.op_counts = OpCounts(SOURCES)
        self.settled = FanOut(self.ring, self.books.latest, [self.feed, self.op_counts, *self.books.derived.values()])
        self.journals = Journals(settings, clock, settled=self.settled, decided=self.books.decided, open_file=open_file)
        self.state = StateStore(Path(settings.data_dir), clock)

    def checkpoint(self, corrections: CorrectionsTailer, before_save: Callable[[], Awaitable[None]]) -> Checkpoint:
        """The stage that saves the books and the cursor of *corrections*; *before_save* secures pending posts."""
        journals, books = self.journals, self.books
        return Checkpoint(
            self.state,
            self.ring,
            ops_path=journals.path(journals.ops),
            ops_position=journals.ops,
            decisions_path=journals.path(journals.decisions),
            decisions_position=journals.decisions,
            latest=books.latest,
            derived=books.derived,
            decided=books.decided,
            corrections=corrections,
            correction_source=CORRECTION,
            quiet=books.in_order.quiet,
            before_save=before_save,
        )

    def retention(self, settings: Settings, clock: Clock, checkpoint: Checkpoint) -> Retention:
        """The stage that drops old segments, once *checkpoint* has saved what they held."""
        journals = self.journals
        return Retention(
            self.state,
            checkpoint.save,
            clock,
            ops=journals.bounded(journals.ops),
            decisions=journals.bounded(journals.decisions),
            max_age_s=settings.retention_s,
        )
