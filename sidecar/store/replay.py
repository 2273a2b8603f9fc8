"""Rebuilds derived state from the journals: each op to every consumer, each decision after the op it follows.

Makes no decisions and calls nobody. Used at start for what the last save does not cover, and by `observer replay`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from sidecar.model import Decision, ObservedOp
from sidecar.protocols import OpConsumer
from sidecar.store.checkpoint_copy import Covered
from sidecar.store.decisions import DecisionHandlers
from sidecar.store.fan_out import hand_on
from sidecar.store.journal_reader import JournalReader
from sidecar.store.latest_ops import LatestOps

TURN: Final = 500  # records between two yields to the caller


class Replay:
    """One pass over both journals; *latest* filters the ops. *corrections*: a source name, and its ops' consumer.

    `ops`, `decisions` and `damaged` count records. `offset` is the current position in the journal of ops.
    """

    def __init__(
        self,
        ops_path: Path,
        decisions_path: Path,
        latest: LatestOps,
        consumers: Iterable[OpConsumer],
        *,
        decided: DecisionHandlers,
        corrections: tuple[str, OpConsumer] | None = None,
    ) -> None:
        self._ops = JournalReader(ops_path, keep_damaged=True)
        self._decisions = JournalReader(decisions_path, keep_damaged=True)
        self._latest = latest
        self._consumers = list(consumers)
        self._decided = decided
        self._corrections = corrections
        self.ops = 0
        self.decisions = 0
        self.offset = 0

    @property
    def damaged(self) -> int:
        """Records that could not be read."""
        return self._ops.damaged + self._decisions.damaged

    def steps(self, since: Covered, *, corrections_since: int = 0) -> Iterator[None]:
        """Replay everything after *since*; yields every `TURN` records. Raises OSError.

        Ops of the corrections source go to its consumer only after the logical offset *corrections_since*.
        """
        self.offset = since.ops
        handed_on = self._corrections
        source, restore = (handed_on[0], handed_on[1].consume) if handed_on is not None else (None, None)
        decisions = self._decisions.scan(Decision, since.decisions)
        waiting = next(decisions, None)
        for op, offset in self._ops.scan(ObservedOp, since.ops):
            while waiting is not None and waiting[0].after is not None and waiting[0].after <= self.offset:
                self._take(waiting[0])
                waiting = next(decisions, None)
            self.offset = offset
            self._hand_on(op)
            if restore is not None and op.source == source and offset > corrections_since:
                restore(op)
            self.ops += 1
            # Older decisions name the op they follow by id only. Ids sort by time, so comparing them works even if
            # that op's segment was dropped.
            while waiting is not None and waiting[0].after is None and (waiting[0].follows or "") <= (op.op_id or ""):
                self._take(waiting[0])
                waiting = next(decisions, None)
            if not self.ops % TURN:
                yield
        while waiting is not None:
            self._take(waiting[0])
            if not self.decisions % TURN:
                yield
            waiting = next(decisions, None)

    def _hand_on(self, op: ObservedOp) -> None:
        replaced = self._latest.take(op)
        if replaced is not None:
            for consumer in self._consumers:
                hand_on(consumer, (op, replaced))

    def _take(self, decision: Decision) -> None:
        self._decided.consume(decision)
        self.decisions += 1
