"""All state derived from the journals: the books, and how decisions change them.

The running observer and a replay build the same books, so both reach the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from sidecar.analysis.correction_review import CorrectionReview
from sidecar.analysis.error_analyzer import DECISION_KIND as DIAGNOSIS
from sidecar.analysis.error_analyzer import marked
from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.life_cycle import DECISION_KIND as INCIDENTS
from sidecar.analysis.life_cycle import decided
from sidecar.analysis.success_book import SuccessBook
from sidecar.kept_rows import Saved
from sidecar.langfuse.book import DONE, TOLD, LangfuseBook
from sidecar.pipeline.learning import KINDS, Learning
from sidecar.protocols import Clock
from sidecar.store.checkpoint import Derived
from sidecar.store.decisions import DecisionHandlers
from sidecar.store.duplicates import Duplicates
from sidecar.store.in_order import InOrder
from sidecar.store.latest_ops import LATEST, LatestOps
from sidecar.store.op_total import TABLE, OpTotal


class Books:
    """All books. A new book is added only here: it is then fed, saved, restored, replayed and cleaned on erasure.

    `derived` maps table names in `state.db` to books. A book that counts ops also has `retract`, for ops that later
    ones amend; `latest`, in front of all books, finds those. `decided` holds the effects of each kind of decision; code
    that reacts to decisions only in the running observer adds handlers to it. Learning depends on the order of ops and
    decisions, and is therefore fed through `in_order`.
    """

    def __init__(self, clock: Clock) -> None:
        self.latest = LatestOps()
        self.incidents = IncidentBook()
        self.corrections = CorrectionReview(self.incidents)
        self.successes = SuccessBook()
        self.duplicates = Duplicates(clock)
        self.langfuse = LangfuseBook()
        self.learning = Learning()
        self.total = OpTotal()
        self.in_order = InOrder(self.learning)
        self.derived: dict[str, Derived] = {
            "incidents": self.incidents,
            "corrections": self.corrections,
            "successes": self.successes,
            "learning": self.in_order,
            "seen_ids": self.duplicates,
            "langfuse": self.langfuse,
            TABLE: self.total,
        }
        self.decided = DecisionHandlers()
        self._on(DIAGNOSIS, lambda body: marked(self.incidents, body))
        self._on(INCIDENTS, lambda body: decided(self.incidents, body))
        self._on(TOLD, self.langfuse.apply_told)
        self._on(DONE, self.langfuse.apply_done)
        for kind in KINDS:
            self._on(kind, partial(self.in_order.apply, kind))

    @property
    def saved(self) -> dict[str, Saved]:
        """All saved state by table."""
        return {LATEST: self.latest, **self.derived}

    def _on(self, kind: str, apply: Callable[[bytes], Any]) -> None:
        def applied(body: bytes) -> None:
            apply(body)

        self.decided.add(kind, applied)
