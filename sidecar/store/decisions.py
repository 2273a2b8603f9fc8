"""What the observer decided, in `decisions.jsonl`: the second journal, with the promises of the first."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sidecar.clock import rfc3339_ms
from sidecar.errors import JournalError
from sidecar.ids import new_id
from sidecar.model import Decision
from sidecar.protocols import Clock
from sidecar.store.commit_log import CommitLog


class Decisions:
    """Writes decisions and waits until they are in the file."""

    def __init__(self, log: CommitLog[Decision], clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def decide(self, kind: str, body: object, follows: str | None) -> None:
        """Write *body* (any message) as a decision of *kind* that came after the op *follows*.

        Raises JournalError if it is not in the file.
        """
        decision = Decision(
            decision_id=new_id(),
            at=rfc3339_ms(self._clock.time_ns()),
            kind=kind,
            body=msgspec.Raw(msgspec.json.encode(body)),
            follows=follows,
        )
        receipt = self._log.append(decision, awaited=True)
        if receipt is None:
            raise JournalError(
                "the decision was not written", "the journal has no room", "Look at the data folder's disk"
            )
        await receipt.wait()


class Nowhere:
    """The downstream of a journal whose records nobody follows live."""

    def consume_all(self, ops: Sequence[Decision], lines: Sequence[bytes]) -> None:
        """Nothing."""
