"""Advice for agents: asked by the doors, offered, decided, and only then told.

Every door goes through here. What cannot be written down in time is not told: without its coins in the journal nobody
could say later whether advice helped.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sidecar.advice.exposures import ExposureBook
from sidecar.advice.offers import Offers
from sidecar.clock import rfc3339_ms
from sidecar.errors import NotKnownError, OverloadedError, RetryableError
from sidecar.ids import new_id
from sidecar.model_learning import Advice, AdviceQuery, InformedTask, ReportedOutcome
from sidecar.protocols import Clock, DecisionLog

EXPOSURE: Final = "exposure"
OUTCOME: Final = "outcome"
INFORMED: Final = "informed"
MAX_PENDING: Final = 1000  # decisions on their way into the journal


class Advisor:
    """*within_s* is how long the journal may take before no advice is given."""

    def __init__(
        self, offers: Offers, book: ExposureBook, decisions: DecisionLog, clock: Clock, *, within_s: float
    ) -> None:
        self._offers = offers
        self._book = book
        self._decisions = decisions
        self._clock = clock
        self._within_s = within_s
        self._pending: set[asyncio.Task[None]] = set()
        self.asked = 0
        self.told = 0  # items
        self.undecided = 0  # times the journal did not take it in time

    async def advise(self, query: AdviceQuery, within_s: float | None = None) -> Advice:
        """What to do or avoid. Raises RetryableError where the journal does not take the exposure in time."""
        self.asked += 1
        offer = self._offers.offer(query, self._clock.time_ns(), f"ex-{new_id()}")
        if offer.exposure is not None:
            await self._decide(EXPOSURE, offer.exposure, within_s)
            self.told += len(offer.advice.advice)
        return offer.advice

    async def report(self, exposure_id: str, *, success: bool) -> None:
        """An agent says how it went. Raises NotKnownError, RetryableError."""
        if not self._book.knows(exposure_id):
            raise NotKnownError(
                f"exposure {exposure_id[:80]!r} is not known",
                "it never was, or it is too long ago",
                "Report the `exposure_id` that came with the advice, soon after the attempt",
            )
        at = rfc3339_ms(self._clock.time_ns())
        await self._decide(OUTCOME, ReportedOutcome(exposure_id=exposure_id, at=at, success=success))

    async def inform(self, task: str) -> None:
        """A task reads the playbook by itself, from now on. Raises RetryableError."""
        await self._decide(INFORMED, InformedTask(task=task, at=rfc3339_ms(self._clock.time_ns())))

    async def idle(self) -> None:
        """Return once nothing is on its way into the journal."""
        while self._pending:
            await asyncio.wait(self._pending)

    async def _decide(self, kind: str, body: object, within_s: float | None = None) -> None:
        if len(self._pending) >= MAX_PENDING:
            self.undecided += 1
            raise OverloadedError("no advice now", "too many decisions wait for the journal", "Ask again later")
        writing = asyncio.create_task(self._decisions.decide(kind, body, None))
        self._pending.add(writing)  # whoever asked may leave: what is being written takes effect all the same
        writing.add_done_callback(self._done)
        done, _ = await asyncio.wait([writing], timeout=self._within_s if within_s is None else within_s)
        if not done:
            self.undecided += 1
            raise RetryableError("no advice now", "the journal does not take it in time", "Ask again later")
        try:
            writing.result()
        except RetryableError:
            self.undecided += 1
            raise

    def _done(self, writing: asyncio.Task[None]) -> None:
        self._pending.discard(writing)
        if not writing.cancelled():
            writing.exception()  # whoever waited was told; nobody else needs to be
