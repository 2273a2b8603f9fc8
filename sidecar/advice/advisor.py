"""Answers requests for advice: an offer is made, its exposure is journalled, and only then is it told.

All doors use this module. Advice whose exposure cannot be journalled in time is not given: without the random
assignments in the journal its effect could not be measured later.
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
MAX_PENDING: Final = 1000  # decisions being written to the journal


class Advisor:
    """Gives advice; if the journal takes longer than *within_s* seconds, there is no advice."""

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
        self.told = 0  # advice items told
        self.undecided = 0  # decisions that the journal did not accept in time

    async def advise(self, query: AdviceQuery, within_s: float | None = None) -> Advice:
        """The advice for *query*. Raises RetryableError if its exposure cannot be journalled in time."""
        self.asked += 1
        offer = self._offers.offer(query, self._clock.time_ns(), f"ex-{new_id()}")
        if offer.exposure is not None:
            await self._decide(EXPOSURE, offer.exposure, within_s)
            self.told += len(offer.advice.advice)
        return offer.advice

    async def report(self, exposure_id: str, *, success: bool) -> None:
        """Record an agent's report of an outcome. Raises NotKnownError, RetryableError."""
        if not self._book.knows(exposure_id):
            raise NotKnownError(
                f"exposure {exposure_id[:80]!r} is not known",
                "it never existed, or it is too old",
                "Report the `exposure_id` that came with the advice, soon after the attempt",
            )
        at = rfc3339_ms(self._clock.time_ns())
        await self._decide(OUTCOME, ReportedOutcome(exposure_id=exposure_id, at=at, success=success))

    async def inform(self, task: str) -> None:
        """Record that *task* reads the playbook by itself from now on. Raises RetryableError."""
        await self._decide(INFORMED, InformedTask(task=task, at=rfc3339_ms(self._clock.time_ns())))

    async def idle(self) -> None:
        """Return once no decision is being written."""
        while self._pending:
            await asyncio.wait(self._pending)

    async def _decide(self, kind: str, body: object, within_s: float | None = None) -> None:
        if len(self._pending) >= MAX_PENDING:
            self.undecided += 1
            raise OverloadedError("no advice now", "too many decisions wait for the journal", "Ask again later")
        writing = asyncio.create_task(self._decisions.decide(kind, body, None))
        self._pending.add(writing)  # kept here: the decision takes effect even if the caller leaves
        writing.add_done_callback(self._done)
        done, _ = await asyncio.wait([writing], timeout=self._within_s if within_s is None else within_s)
        if not done:
            self.undecided += 1
            raise RetryableError("no advice now", "the journal does not accept it in time", "Ask again later")
        try:
            writing.result()
        except RetryableError:
            self.undecided += 1
            raise

    def _done(self, writing: asyncio.Task[None]) -> None:
        self._pending.discard(writing)
        if not writing.cancelled():
            writing.exception()  # mark the exception as retrieved: the caller was told
