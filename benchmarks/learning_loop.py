"""The closed loop: simulated agents ask for advice, follow it and call; all through the product's `Learning`.

The gain is computed from the world's failure probabilities before and after advice, not from random outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from benchmarks.learning_worlds import ENDPOINT, NOISE, Features, Planted, World, an_op, planted_world
from sidecar.advice.advisor import EXPOSURE
from sidecar.clock import rfc3339_ms
from sidecar.model import Scalar
from sidecar.model_learning import AdviceItem, AdviceQuery, Range, Term
from sidecar.pipeline.learning import Learning

CYCLE_OPS = 20  # ops between two cycles
SEEN = (400, 500)  # ops over which improvement is measured, counted from the start of the world
REVERSES_AT, WITHIN = 1000, 400
_START_NS = 1_767_225_600_000_000_000


@dataclass
class Agents:
    """One call per task, a second apart; each agent asks first, and follows the advice as far as it can."""

    world: World
    dice: Random
    learning: Learning = field(default_factory=Learning)
    calls: int = 0

    def __post_init__(self) -> None:
        self._offers = self.learning.offers(holdout=0.1, window_s=3600, draw=self.dice.random)

    def call(self) -> tuple[Features, Features, bool]:
        """Run one task; returns the features it wanted, those it called with, and whether any entry was withheld."""
        self.calls += 1
        now_ns = _START_NS + self.calls * 10**9
        wanted = self.world.features(self.dice)
        query = AdviceQuery(endpoint=ENDPOINT, facts=wanted, task=f"t-{self.calls}")
        offer = self._offers.offer(query, now_ns, f"ex-{self.calls}")
        if offer.exposure is not None:
            self.learning.decide_now(EXPOSURE, offer.exposure)
        called = wanted | followed(offer.advice.advice, self.world, self.dice)
        success = self.world.succeeds(called, self.dice)
        ended = rfc3339_ms(now_ns + 10**8)
        self.learning.consume(an_op(called, success=success, number=self.calls, at=ended))
        if not self.calls % CYCLE_OPS:
            self.learning.cycle_now(ended)
        withheld = offer.exposure is not None and not all(each.shown for each in offer.exposure.assignments)
        return wanted, called, withheld

    def standing(self) -> list[str]:
        """The ids of the entries made from rules that are not retired."""
        rows = self.learning.playbook.rows()
        return [row.latest.playbook_id for row in rows if row.latest.author == "rule" and row.state != "retired"]


def followed(advice: list[AdviceItem], world: World, dice: Random) -> Features:
    """The changes of an agent that follows *advice*; the first item about a field counts."""
    changes: Features = {}
    for item in advice:
        for name, term in item.set.items():
            value = _value(term, world, name, dice)
            if value is not None:
                changes.setdefault(name, value)
    return changes


def _value(term: Term, world: World, name: str, dice: Random) -> Scalar | None:
    if not isinstance(term, Range):
        return term
    low = term.above if term.above is not None else 0.0
    high = term.up_to if term.up_to is not None else 100.0
    return round(dice.uniform(low, high), 2) if any(each.name == name for each in world.fields) else None


def loop_world(seed: int) -> World:
    """A planted world whose rule concerns at least one call in four and costs at least 40 points: worth advice."""
    for attempt in range(1000):
        world = planted_world(seed * 1000 + attempt, most_fields=20, most_conditions=2)
        rule, dice = world.planted[0], Random(seed)
        concerned = sum(rule.met(world.features(dice)) for _ in range(1000))
        if rule.fails - world.base >= 0.4 and concerned >= 250:
            return world
    raise AssertionError("no such world")


class Improvement(NamedTuple):
    """The gain over `SEEN` of tasks with nothing withheld, and that of an oracle: in points per task."""

    gained: float
    possible: float


def improvement(seed: int) -> Improvement:
    """The improvement in one run."""
    world = loop_world(seed)
    agents = Agents(world, Random(seed))
    gained = possible = 0.0
    tasks = 0
    for number in range(1, SEEN[1] + 1):
        wanted, called, withheld = agents.call()
        if number > SEEN[0] and not withheld:
            tasks += 1
            gained += world.fails(wanted) - world.fails(called)
            possible += world.fails(wanted) - world.base
    scale = 100 * (1 - 2 * NOISE) / max(tasks, 1)
    return Improvement(scale * gained, scale * possible)


class Reversal(NamedTuple):
    """Whether entries stood when the world reversed; ops until all of them were retired, and until a new one stood."""

    stood: bool
    retired: int | None
    replaced: int | None


def reversal(seed: int) -> Reversal:
    """The reversal in one run."""
    world = loop_world(seed)
    agents = Agents(world, Random(seed))
    for _ in range(REVERSES_AT):
        agents.call()
    old = set(agents.standing())
    agents.world = turned(world)
    retired = replaced = None
    for number in range(1, WITHIN + 1):
        agents.call()
        if not number % CYCLE_OPS:
            standing = set(agents.standing())
            retired = retired if retired is not None or standing & old else number
            replaced = replaced if replaced is not None or not standing - old else number
    return Reversal(bool(old), retired, replaced)


def turned(world: World) -> World:
    """The same world with the failure rates of the rule's calls and of all other calls exchanged."""
    rule = world.planted[0]
    others = Planted(rule.conditions, rule.fails, negated=True)
    return World(world.fields, world.base, (others,), world.noise)
