"""Simulated worlds with or without planted rules; as a command, the rate of false rules in worlds without any.

`python -m tests.rules_worlds [runs] [cycles]` (200 and 1,000: some minutes on one core).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from random import Random
from typing import Any

from sidecar.analysis.rules import RuleBook
from sidecar.model import ObservedOp, Scalar
from tests.fakes import an_op

Features = dict[str, Scalar]
ENDPOINT = "/fill"


def an_outcome(success: bool, features: Features, **fields: Any) -> ObservedOp:
    return an_op(endpoint=ENDPOINT, success=success, features=features, **fields)


def learn(book: RuleBook) -> None:
    """Run the learning of one whole cycle."""
    for _ in book.learn():
        pass


def letters(dice: Random, names: int = 10, values: str = "abc") -> Features:
    return {f"f{number}": values[int(dice.random() * len(values))] for number in range(names)}


def mixed(dice: Random) -> Features:
    """Features of all kinds: texts, booleans, numbers with few and with many values, and a text sometimes missing."""
    found: Features = letters(dice, 5) | {f"b{number}": dice.random() < 0.3 for number in range(3)}
    found |= {"count": int(dice.random() * 6), "amount": dice.gauss(100, 30)}
    if dice.random() < 0.2:
        del found["f0"]
    return found


def live(
    book: RuleBook, dice: Random, ops: int, draw: Callable[[Random], Features], fails: Callable[[Features], float]
) -> None:
    """Consume *ops* ops that fail with the probability *fails* of their features; learn after every twenty."""
    for number in range(1, ops + 1):
        features = draw(dice)
        book.consume(an_outcome(dice.random() >= fails(features), features))
        if not number % 20:
            learn(book)


def conditions(book: RuleBook) -> list[set[str]]:
    """The conditions of each learnt rule of the endpoint, as texts."""
    return [{condition.text() for condition in rule.conditions} for rule in book.rules(ENDPOINT)]


def false_alarm(seed: int, cycles: int, ops_a_cycle: int = 10) -> bool:
    """Whether, in a world without rules, any rule is reported within *cycles* cycles."""
    dice = Random(seed)
    base = (0.05, 0.1, 0.2, 0.3, 0.5)[seed % 5]
    book = RuleBook()
    for _ in range(cycles):
        for _ in range(ops_a_cycle):
            book.consume(an_outcome(dice.random() >= base, mixed(dice)))
        learn(book)
        if book.rules(ENDPOINT):
            return True
    return False


def main(runs: int = 200, cycles: int = 1000) -> None:
    """Count the runs with a false alarm."""
    alarms = 0
    for seed in range(runs):
        alarms += false_alarm(seed, cycles)
        sys.stdout.write(f"\r{alarms} of {seed + 1} runs of {cycles} cycles reported a rule where there is none")
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
