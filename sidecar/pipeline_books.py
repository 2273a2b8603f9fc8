"""What is derived from the journals, in one place: the books, and what decisions do to them. Part of the pipeline.

The running observer and a replay build the same, so that both come to the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidecar.analysis.error_analyzer import DECISION_KIND as DIAGNOSIS
from sidecar.analysis.error_analyzer import marked
from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.life_cycle import DECISION_KIND as INCIDENTS
from sidecar.analysis.life_cycle import decided
from sidecar.analysis.playbook_consolidator import DECISION_KIND as PLAYBOOK
from sidecar.analysis.playbook_consolidator import kept
from sidecar.analysis.success_book import SuccessBook
from sidecar.langfuse.book import DONE, TOLD, LangfuseBook
from sidecar.protocols import Clock
from sidecar.store.checkpoint import Derived
from sidecar.store.decisions import DecisionHandlers
from sidecar.store.duplicates import Duplicates


class Books:
    """A new book belongs here alone: it is then fed, saved, restored, replayed, forgotten from.

    `derived` names each book as its table in `state.db` is named; `decided` has what every kind of decision does to
    them. Whoever also acts on a decision, in the running observer only, adds to it.
    """

    def __init__(self, clock: Clock) -> None:
        self.incidents = IncidentBook()
        self.successes = SuccessBook()
        self.duplicates = Duplicates(clock)
        self.langfuse = LangfuseBook()
        self.derived: dict[str, Derived] = {
            "incidents": self.incidents,
            "successes": self.successes,
            "seen_ids": self.duplicates,
            "langfuse": self.langfuse,
        }
        self.decided = DecisionHandlers()
        self._on(DIAGNOSIS, lambda body: marked(self.incidents, body))
        self._on(INCIDENTS, lambda body: decided(self.incidents, body))
        self._on(PLAYBOOK, lambda body: kept(self.successes, body))
        self._on(TOLD, self.langfuse.apply_told)
        self._on(DONE, self.langfuse.apply_done)

    def _on(self, kind: str, apply: Callable[[bytes], Any]) -> None:
        def applied(body: bytes) -> None:
            apply(body)

        self.decided.add(kind, applied)
