"""What is told of a rule with a numeric cut is what anybody counts in the operations, at the place told."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_standing import Rule
from sidecar.analysis.rules import RuleBook
from sidecar.model import ObservedOp
from sidecar.pipeline.observer import Observer
from sidecar.store.checkpoint_copy import dumped
from tests.observers import client, cycle, observer
from tests.rules_worlds import ENDPOINT, Features, an_outcome, learn
from tests.test_forget import forget
from tests.test_replay import in_thread, replay

BOOK_ROOM = "/tools/book_room"
Draw = Callable[[Random], tuple[Features, float]]
"""A call's features, and the probability that it succeeds."""


def nights(dice: Random) -> tuple[Features, float]:
    """Few whole numbers; some are far more frequent than others."""
    number = dice.choice([1, 2, 2, 3, 3, 3, 7, *range(1, 21)])
    return {"nights": number, "board": dice.choice(["full", "half", "none"])}, 0.0 if number > 14 else 0.9


def moments(dice: Random) -> tuple[Features, float]:
    """Numbers that never repeat; a second one means nothing."""
    amount = dice.gauss(100, 30)
    return {"amount": amount, "weight": dice.random()}, 0.2 if amount > 117.3 else 0.85


def together(dice: Random) -> tuple[Features, float]:
    """Calls above the limit fail in one region only, and many calls do not tell the number."""
    features: Features = {"region": dice.choice(["north", "south"])}
    if dice.random() < 0.8:
        features["age"] = dice.randint(0, 60)
    fails = features["region"] == "north" and float(features.get("age", 0)) > 33
    return features, 0.05 if fails else 0.95


def below(dice: Random) -> tuple[Features, float]:
    """What succeeds lies below a limit that cuts a crowded number's bin in two."""
    count = round(dice.expovariate(0.1))
    return {"count": count}, 0.9 if count <= 4 else 0.3


def an_op_of(dice: Random, draw: Draw) -> ObservedOp:
    features, probability = draw(dice)
    return an_outcome(dice.random() < probability, features)


def is_met(condition: Condition, op: ObservedOp) -> bool:
    value = (op.features or {}).get(condition.field)
    if condition.field.startswith("features."):
        value = (op.features or {}).get(condition.field.removeprefix("features."))
    if condition.kind == "missing":
        return value is None
    if condition.kind == "is":
        return value == condition.value
    if value is None or isinstance(value, str):
        return False
    return (condition.low is None or value > condition.low) and (condition.high is None or value <= condition.high)


def counted(ops: Sequence[ObservedOp], rule: Rule) -> tuple[int, int, int, int]:
    """The calls that meet the rule as told, their successes, the other calls, and theirs."""
    met = [op.success for op in ops if all(is_met(each, op) for each in rule.told)]
    others = [op.success for op in ops if not all(is_met(each, op) for each in rule.told)]
    return len(met), sum(met), len(others), sum(others)


@pytest.mark.parametrize("draw", [nights, moments, together, below])
def test_a_rule_counts_at_the_place_told(draw: Draw) -> None:
    """After every cycle, whatever the shape of the data: the first operations, told apart where the rule says."""
    moved = 0
    for seed in range(4):
        dice, book, ops = Random(seed), RuleBook(), list[ObservedOp]()
        for number in range(1, 801):
            ops.append(an_op_of(dice, draw))
            book.consume(ops[-1])
            if not number % 20:
                learn(book)
                for rule in book.rules(ENDPOINT):
                    assert rule.counts == counted(ops[: rule.n + rule.others], rule), (number, rule.text())
                    moved += rule.moved != ()
        assert book.rules(ENDPOINT)
    assert moved  # some cut was told elsewhere than at its cut point


def test_counts_go_on_over_full_sheets_while_the_place_stays() -> None:
    """9,000 operations fill two sheets and begin a third; the counts are of all, or since a sheet began."""
    dice, book, ops = Random(1), RuleBook(), list[ObservedOp]()
    for number in range(1, 9001):
        ops.append(an_op_of(dice, nights))
        book.consume(ops[-1])
        if not number % 64:
            learn(book)
    (rule,) = book.rules(ENDPOINT)
    seen = rule.n + rule.others
    assert rule.counts in [counted(ops[start : start + seen], rule) for start in (0, 4096, 8192)]
    assert [each.text() for each in rule.told] == ["nights>14"]
    assert rule.successes == 0


def test_an_operation_whose_number_was_not_kept_is_on_neither_side() -> None:
    """Sixty numeric inputs are more than a sheet has room for: what is counted is still only what is so."""
    dice, book, ops = Random(2), RuleBook(), list[ObservedOp]()
    for number in range(1, 1601):
        features, probability = nights(dice)
        features |= {f"f{each}": dice.random() for each in range(40)}
        ops.append(an_outcome(dice.random() < probability, features))
        book.consume(ops[-1])
        if not number % 40:
            learn(book)
    (rule,) = book.rules(ENDPOINT)
    met, _, others, _ = counted(ops, rule)
    assert [each.text() for each in rule.told] == ["nights>14"]
    assert (rule.successes, 0 < rule.n <= met, 0 < rule.others <= others) == (0, True, True)


async def post(http: httpx.AsyncClient, running: Observer, dice: Random, name: str, calls: int) -> None:
    """So many calls, by two people in turn, each of a task of its own; a cycle after every fifty."""
    for start in range(0, calls, 50):
        events: list[dict[str, Any]] = []
        for number in range(start, start + 50):
            features, probability = nights(dice)
            event = {"endpoint": BOOK_ROOM, "success": dice.random() < probability, "features": features}
            events.append(event | {"task": f"{name}-{number}", "staffer_id": f"st-{number % 4}"})
        assert (await http.post("/events", json=events)).json()["accepted"] == 50
        await cycle(running)


def in_journal(tmp_path: Path, number: int, above: float) -> tuple[int, int, int, int]:
    """What anybody counts in the first *number* lines of the operations' journal: above the limit, and others."""
    lines = (tmp_path / "data" / "ops.jsonl").read_text().splitlines()
    ops = [json.loads(line) for line in lines if BOOK_ROOM in line][:number]
    met = [each["success"] for each in ops if each["features"]["nights"] > above]
    others = [each["success"] for each in ops if each["features"]["nights"] <= above]
    return len(met), sum(met), len(others), sum(others)


def check(tmp_path: Path, entry: dict[str, Any], best: str) -> None:
    """The entry's text, its numbers and the line of the statistics against the journal."""
    above, calls, others = entry["when"]["nights"]["above"], entry["calls"], entry["other_calls"]
    n, good, rest, rest_good = in_journal(tmp_path, calls + others, above)
    assert (calls, others) == (n, rest)
    rates = f"{100 * good / n:.0f} % of {n} such calls succeeded, {100 * rest_good / rest:.0f} % of {rest} others."
    assert entry["text"].startswith(f"Avoid nights above {above:g}: {rates}")
    said = re.search(r"WHEN nights>(\d+) succeeds (\d+) % \(n=(\d+)\), without it (\d+) % \(n=(\d+)\)", best)
    assert said is not None
    place, rate, told, other_rate, told_others = map(int, said.groups())
    n, good, rest, rest_good = in_journal(tmp_path, told + told_others, place)
    assert (told, told_others) == (n, rest)
    assert (rate, other_rate) == (round(100 * good / n), round(100 * rest_good / rest))


async def state(http: httpx.AsyncClient) -> tuple[dict[str, Any], str]:
    """The rule's entry, and its line among the best rules."""
    entries = (await http.get("/playbooks")).json()["playbooks"]
    (entry,) = [each for each in entries if each.get("author") == "rule" and each["state"] != "retired"]
    (best,) = (await http.get("/stats")).json()["rules"]["best"]
    return entry, best


async def test_the_journal_confirms_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the doors, after a person was forgotten, and in a replay."""
    dice = Random(3)
    async with observer(tmp_path) as running, client(running) as http:
        await post(http, running, dice, "a", 400)
        check(tmp_path, *await state(http))
    await asyncio.to_thread(forget, tmp_path, capsys, "st-1")
    async with observer(tmp_path) as running, client(running) as http:
        await post(http, running, dice, "b", 600)
        entry, best = await state(http)
        check(tmp_path, entry, best)
    before = dumped(tmp_path / "data" / "state.db")
    after, _ = await in_thread(replay, tmp_path, capsys)
    assert after == before
