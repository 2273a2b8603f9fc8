"""Rules: how many planted ones are found, how many of those found are planted, how often one is found where none is."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from benchmarks.learning_worlds import ENDPOINT, an_op, planted_world, same_rule, world_without_rules
from sidecar.analysis.rules import RuleBook

OBSERVATIONS = 100  # on both sides of the rule
CYCLE_OPS = 20
NULL_OPS = 10  # a cycle
_MOST_OPS = 12_000


class Found(NamedTuple):
    """Of one planted world: the rule's size and effect, whether it was found, rules reported and true."""

    fields: int
    conditions: int
    effect: float
    found: bool
    reported: int
    true: int
    ops: int


def planted(seed: int) -> Found:
    """Ops until the rule has its observations on both sides, a cycle after each twenty and at the end."""
    world, dice, book = planted_world(seed), Random(seed + 1_000_000), RuleBook()
    rule = world.planted[0]
    met = ops = 0
    while min(met, ops - met) < OBSERVATIONS and ops < _MOST_OPS:
        features = world.features(dice)
        met += rule.met(features)
        ops += 1
        book.consume(an_op(features, success=world.succeeds(features, dice)))
        if not ops % CYCLE_OPS:
            learn(book)
    learn(book)
    reported = book.rules(ENDPOINT)
    true = sum(same_rule(world, rule, each) for each in reported)
    effect = 100 * (rule.fails - world.base)
    return Found(len(world.fields), len(rule.conditions), effect, true > 0, len(reported), true, ops)


def false_alarm(seed: int, cycles: int) -> bool:
    """Whether a world without rules ever gets one; left at the first."""
    world, dice, book = world_without_rules(seed), Random(seed + 1_000_000), RuleBook()
    for _ in range(cycles):
        for _ in range(NULL_OPS):
            features = world.features(dice)
            book.consume(an_op(features, success=world.succeeds(features, dice)))
        learn(book)
        if book.rules(ENDPOINT):
            return True
    return False


def learn(book: RuleBook) -> None:
    """A whole cycle's learning."""
    for _ in book.learn():
        pass
