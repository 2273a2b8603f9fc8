"""Rules: recall and precision for planted rules, and how often a rule is found in a world without any.

In a world of several rules each is judged once it has enough observations. A call that meets two rules fails with the
worse one's probability, so one rule hides a part of the other. *Provable* rules are those whose calls, given the other
rules' calls, contain the evidence required of a further rule: the most that the evidence used here could find.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from benchmarks.learning_worlds import ENDPOINT, Planted, World, an_op, planted_world, same_rule, world_without_rules
from sidecar.analysis.e_values import MAX_OPS, complete
from sidecar.analysis.rule_choice import ENOUGH
from sidecar.analysis.rule_counts import MAX_COLUMNS, Room, Sheet
from sidecar.analysis.rule_evidence import Evidence
from sidecar.analysis.rule_prior import Prior
from sidecar.analysis.rule_search import Snapshot, snapshot
from sidecar.analysis.rules import RuleBook
from sidecar.model import ObservedOp

OBSERVATIONS = 100  # on both sides of the rule
CYCLE_OPS = 20
NULL_OPS = 10  # ops per cycle
_MOST_OPS = 12_000


class Found(NamedTuple):
    """The result for one world: the rule's size and effect, whether it was found, rules reported, and true ones."""

    fields: int
    conditions: int
    effect: float
    found: bool
    reported: int
    true: int
    ops: int


def planted(seed: int) -> Found:
    """Run a world until its rule has its observations on both sides; a cycle after every twenty ops and at the end."""
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


class FoundTogether(NamedTuple):
    """The result for a world of several rules: which are provable, and found in time; rules reported, and true ones."""

    provable: list[bool]
    found: list[bool]
    reported: int
    true: int


def planted_together(rules: int, seed: int) -> FoundTogether:
    """Run a world until all its rules have their observations; a cycle every twenty ops and when a rule has them."""
    world, dice, book = planted_world(seed, rules), Random(seed + 1_000_000), RuleBook()
    met, ops = [0] * len(world.planted), list[ObservedOp]()
    provable, found = [False] * len(met), [False] * len(met)
    left = set(range(len(met)))
    while left and len(ops) < _MOST_OPS:
        features = world.features(dice)
        met = [count + rule.met(features) for count, rule in zip(met, world.planted, strict=True)]
        ops.append(an_op(features, success=world.succeeds(features, dice)))
        book.consume(ops[-1])
        due = [at for at in sorted(left) if min(met[at], len(ops) - met[at]) >= OBSERVATIONS]
        if due or not len(ops) % CYCLE_OPS:
            learn(book)
        for at in due:
            left.remove(at)
            found[at] = any(same_rule(world, world.planted[at], each) for each in book.rules(ENDPOINT))
            provable[at] = _is_provable(world, at, ops)
    reported = book.rules(ENDPOINT)
    true = sum(any(same_rule(world, rule, each) for rule in world.planted) for each in reported)
    return FoundTogether(provable, found, len(reported), true)


def _is_provable(world: World, at: int, ops: Sequence[ObservedOp]) -> bool:
    sheet = Sheet()
    for op in ops[-MAX_OPS:]:
        sheet.add(op, Room(MAX_COLUMNS, numbers=0, beside_borders=False))
    seen = snapshot(sheet, complete(sheet.ops))
    met = [_bits(rule, ops[-MAX_OPS:], seen.every) for rule in world.planted]
    evidence = Evidence(seen, [bits for number, bits in enumerate(met) if number != at])
    return evidence.log_e(met[at]) + _share(world.planted[at], seen) >= ENOUGH


def _bits(rule: Planted, ops: Sequence[ObservedOp], every: int) -> int:
    return sum(rule.met(op.features or {}) << number for number, op in enumerate(ops)) & every


def _share(rule: Planted, seen: Snapshot) -> float:
    """Ln of the prior share of a conjunction on the rule's fields."""
    prior = Prior(seen.bits, [])
    some = [max(prior.of(each) for each in seen.bits if each.field == field) for field in rule.fields]
    return prior.of_size(len(some)) + sum(some)


def false_alarm(seed: int, cycles: int) -> bool:
    """Whether a world without rules ever gets one; stops at the first."""
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
    """Run one cycle's learning to its end."""
    for _ in book.learn():
        pass
