"""The decision journal `decisions.jsonl`: the second journal, with the same guarantees as the first.

A decision takes effect once it is in the file, through the same handlers live and in a replay. So its effect depends
on the file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import structlog

from sidecar.clock import rfc3339_ms
from sidecar.errors import JournalError
from sidecar.ids import new_id
from sidecar.model import Decision
from sidecar.protocols import Clock
from sidecar.store.commit_log import CommitLog

log = structlog.get_logger(__name__)


class Decisions:
    """Writes decisions and waits until they are in the file."""

    def __init__(self, log: CommitLog[Decision], clock: Clock, ops: CommitLog[Any]) -> None:
        self._log = log
        self._clock = clock
        self._ops = ops

    async def decide(self, kind: str, body: object, follows: str | None) -> None:
        """Write *body* (any message) as a decision of *kind* that came after the op *follows*.

        When this returns, the decision has taken effect. Raises JournalError if it is not in the file.
        """
        decision = Decision(
            decision_id=new_id(),
            at=rfc3339_ms(self._clock.time_ns()),
            kind=kind,
            body=msgspec.Raw(msgspec.json.encode(body)),
            follows=follows,
            after=self._ops.settled_offset,
        )
        receipt = self._log.append(decision, awaited=True)
        if receipt is None:
            raise JournalError(
                "the decision was not written", "the journal has no room", "Look at the data folder's disk"
            )
        await receipt.wait()


class DecisionHandlers:
    """Applies decisions by kind, in file order. The journal's downstream, also called by a replay."""

    def __init__(self) -> None:
        self._apply: dict[str, list[Callable[[bytes], None]]] = {}
        self.failures = 0

    def add(self, kind: str, apply: Callable[[bytes], None]) -> None:
        """Register *apply* for the body (JSON) of every decision of *kind*; it runs after those added earlier."""
        self._apply.setdefault(kind, []).append(apply)

    def consume(self, decision: Decision) -> None:
        """Apply *decision*. An unknown kind has no effect; a failing handler costs only this decision."""
        try:
            for apply in self._apply.get(decision.kind, ()):
                apply(bytes(decision.body))
        except Exception:
            self.failures += 1
            log.exception("decision.not_applied", decision_id=decision.decision_id, kind=decision.kind)

    def consume_all(self, ops: Sequence[Decision], _lines: Sequence[bytes]) -> None:
        """Apply decisions that are in the file."""
        for decision in ops:
            self.consume(decision)
