"""A simulated world without I/O or a real clock, in which tasks ask for advice, follow it, and make a call."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from sidecar.advice.advisor import EXPOSURE
from sidecar.clock import rfc3339_ms
from sidecar.model import Scalar
from sidecar.model_learning import AdviceItem, AdviceQuery, PlaybookEntry
from sidecar.pipeline.learning import Learning
from tests.fakes import an_op

ENDPOINT = "/fill"
Features = dict[str, Scalar]


class World:
    """Runs tasks of one call each, a second apart. *fails* is the probability that a call with these features fails."""

    def __init__(self, seed: int, fails: Callable[[Features], float], *, holdout: float = 0.1) -> None:
        self.dice = Random(seed)
        self.fails = fails
        self.learning = Learning()
        self.offers = self.learning.offers(holdout=holdout, window_s=3600, draw=self.dice.random)
        self.now_ns = 1_700_000_000_000_000_000
        self.tasks = 0

    @property
    def now(self) -> str:
        return rfc3339_ms(self.now_ns)

    def task(self, *, asks: bool = True, follows: bool = True) -> tuple[list[AdviceItem], bool]:
        """Run one task; return the advice that it got, and whether its call succeeded."""
        self.tasks += 1
        self.now_ns += 10**9
        features: Features = {f"f{number}": "abc"[int(self.dice.random() * 3)] for number in range(5)}
        told: list[AdviceItem] = []
        name = f"t-{self.tasks}"
        if asks:
            query = AdviceQuery(endpoint=ENDPOINT, facts=dict(features), task=name)
            offer = self.offers.offer(query, self.now_ns, f"ex-{self.tasks}")
            if offer.exposure is not None:
                self.learning.decide_now(EXPOSURE, offer.exposure)
            told = offer.advice.advice
        for item in told if follows else []:
            features |= {field: term for field, term in item.set.items() if isinstance(term, str)}
        success = self.dice.random() >= self.fails(features)
        self.learning.consume(
            an_op(
                endpoint=ENDPOINT,
                features=features,
                success=success,
                task=name,
                timestamp=rfc3339_ms(self.now_ns + 10**8),
                op_id=f"op-{self.tasks:08}",
                trace_id=f"{self.tasks:032x}",
                span_id=f"{self.tasks:016x}",
            )
        )
        return told, success

    def live(self, tasks: int, *, every: int = 20, asks: bool = True, follows: bool = True) -> float:
        """Run *tasks* tasks, with a learning cycle after every *every*; return the share of successes."""
        succeeded = 0
        for number in range(1, tasks + 1):
            succeeded += self.task(asks=asks, follows=follows)[1]
            if not number % every:
                self.learning.cycle_now(self.now)
        return succeeded / tasks

    def entries(self) -> list[tuple[PlaybookEntry, str]]:
        """(latest version, state) of each entry, by id."""
        rows = sorted(self.learning.playbook.rows(), key=lambda row: row.latest.playbook_id)
        return [(row.latest, row.state) for row in rows]
