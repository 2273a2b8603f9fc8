"""Simulated worlds: fields of calls, rules planted among them (or none) and noise, all from a seed.

A world draws calls. A call fails with the world's base rate or, if it meets all conditions of a planted rule, with that
rule's rate. In 5 % of calls the reported outcome is the opposite of the true one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_standing import Rule
from sidecar.call_fields import word
from sidecar.model import ObservedOp, Scalar

ENDPOINT = "/tools/work"
NOISE = 0.05
_LEAST_SHARE = 0.04  # least share of calls that meet a planted rule
_ALIKE = 0.7  # least Jaccard index of two rules' calls to count as the same rule
_PROBES = 2000

Features = dict[str, Scalar]


@dataclass(frozen=True)
class Field:
    """One feature and the distribution of its values: weighted texts, booleans, or numbers between 0 and 100."""

    name: str
    values: tuple[Scalar, ...] = ()
    weights: tuple[float, ...] = ()

    def draw(self, dice: Random) -> Scalar:
        if self.values:
            return dice.choices(self.values, self.weights)[0]
        return round(100 * dice.random(), 2)


@dataclass(frozen=True)
class Planted:
    """A rule of the world: calls whose fields meet all *conditions* fail with the probability *fails*."""

    conditions: tuple[tuple[str, Callable[[Scalar], bool]], ...]
    fails: float
    negated: bool = False

    def met(self, features: Features) -> bool:
        return all(holds(features[name]) for name, holds in self.conditions) != self.negated

    @property
    def fields(self) -> set[str]:
        return {name for name, _ in self.conditions}


@dataclass(frozen=True)
class World:
    """Fields, the base rate of failure, and the planted rules."""

    fields: tuple[Field, ...]
    base: float
    planted: tuple[Planted, ...]
    noise: float = NOISE

    def features(self, dice: Random) -> Features:
        return {field.name: field.draw(dice) for field in self.fields}

    def fails(self, features: Features) -> float:
        return max([rule.fails for rule in self.planted if rule.met(features)], default=self.base)

    def succeeds(self, features: Features, dice: Random) -> bool:
        """A random outcome, as reported."""
        success = dice.random() >= self.fails(features)
        return success != (dice.random() < self.noise)


def an_op(features: Features, *, success: bool, number: int = 0, at: str = "2026-01-01T00:00:00.000Z") -> ObservedOp:
    return ObservedOp(
        timestamp=at,
        endpoint=ENDPOINT,
        input_summary="",
        success=success,
        duration_ms=1,
        output_summary="",
        task=f"t-{number}",
        op_id=f"op-{number:09}",
        features=features,
    )


def some_fields(dice: Random, number: int) -> tuple[Field, ...]:
    """*number* random fields: some 55 % texts of two to five values, 30 % booleans, 15 % numbers."""
    found = []
    for at in range(number):
        kind = dice.random()
        if kind < 0.55:
            values = tuple(f"v{each}" for each in range(dice.randint(2, 5)))
            found.append(Field(f"f{at}", values, tuple(0.5 + dice.random() for _ in values)))
        elif kind < 0.85:
            share = dice.uniform(0.3, 0.7)
            found.append(Field(f"f{at}", (True, False), (share, 1 - share)))
        else:
            found.append(Field(f"f{at}"))
    return tuple(found)


def planted_world(seed: int, rules: int = 1, most_fields: int = 40, most_conditions: int = 3) -> World:
    """A world of *rules* rules of one to three conditions each, on different fields, among 5 to 40 fields.

    5 to 30 % of other calls fail; calls that meet a rule fail at least 30 points more often, up to always (uniformly).
    """
    dice = Random(seed)
    fields = some_fields(dice, dice.randint(5, most_fields))
    base = dice.uniform(0.05, 0.3)
    left, planted = list(fields), []
    sizes = [dice.randint(1, most_conditions) for _ in range(rules)]
    while sizes and len(left) >= sizes[-1]:
        rule = _planted(dice, left, sizes[-1], dice.uniform(base + 0.3, 1.0))
        if rule is None:
            continue
        planted.append(rule)
        left = [field for field in left if field.name not in rule.fields]
        sizes.pop()
    return World(fields, base, tuple(planted))


def world_without_rules(seed: int) -> World:
    """A world of the same kind without rules."""
    dice = Random(seed)
    return World(some_fields(dice, dice.randint(5, 40)), dice.uniform(0.05, 0.3), ())


def _planted(dice: Random, fields: Sequence[Field], size: int, fails: float) -> Planted | None:
    chosen = dice.sample(fields, size)
    rule = Planted(tuple((field.name, _condition(dice, field)) for field in chosen), fails)
    probe = Random(dice.getrandbits(32))
    met = sum(rule.met({field.name: field.draw(probe) for field in fields}) for _ in range(500))
    return rule if met >= 500 * _LEAST_SHARE else None


def _condition(dice: Random, field: Field) -> Callable[[Scalar], bool]:
    if field.values:
        wanted = dice.choice(field.values)
        return lambda value: value == wanted
    cut = dice.uniform(30, 70)
    return (lambda value: float(value) > cut) if dice.random() < 0.5 else (lambda value: float(value) <= cut)


def same_rule(world: World, planted: Planted, found: Rule) -> bool:
    """Whether *found* uses the fields of *planted* and covers nearly the same calls (or nearly all others)."""
    if {each.field for each in found.conditions} != planted.fields:
        return False
    probe = Random(0)
    both = one = other = 0
    for _ in range(_PROBES):
        features = world.features(probe)
        mine, theirs = planted.met(features), rule_met(found, features)
        both += mine and theirs
        one += mine and not theirs
        other += theirs and not mine
    as_it_is = both / max(both + one + other, 1)
    turned = one / max(_PROBES - other, 1)  # planted's calls are those that found does not cover
    return max(as_it_is, turned) >= _ALIKE


def rule_met(rule: Rule, features: Features) -> bool:
    """Whether a call with *features* meets all conditions of *rule* as reported."""
    return all(_met(each, features.get(each.field)) for each in rule.told)


def _met(condition: Condition, value: Scalar | None) -> bool:
    if condition.kind == "missing" or value is None:
        return condition.kind == "missing" and value is None
    if condition.kind == "is":
        return word(value) == condition.value
    if isinstance(value, bool | str):
        return False
    above = condition.low is None or value > condition.low
    return above and (condition.high is None or value <= condition.high)
