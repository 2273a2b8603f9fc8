"""A rule that cuts a number is told where the numbers beside its cut point say, and no copies of it beside it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sidecar.analysis.playbook_book import PlaybookBook
from sidecar.analysis.rule_entries import rule_entry_id
from sidecar.analysis.rule_follower import RuleFollower
from sidecar.analysis.rules import RuleBook
from sidecar.model_learning import PlaybookEntry, Range
from sidecar.pipeline.observer import Observer
from sidecar.store.checkpoint_copy import dumped
from tests.fakes import an_op
from tests.observers import client, cycle, observer
from tests.rules_worlds import ENDPOINT, Features, an_outcome, learn
from tests.test_replay import in_thread, replay

REFUND = "/tools/refund"
Draw = Callable[[Random], float]


def refund(dice: Random, draw: Draw) -> tuple[Features, bool]:
    """A call, and whether it succeeds: never from 31 days on, else nine times in ten."""
    regions = ("north", "south", "east", "west")
    features: Features = {"age_days": draw(dice), "vip": dice.random() < 0.3, "region": dice.choice(regions)}
    return features, float(features["age_days"]) <= 30 and dice.random() < 0.9


def days(dice: Random) -> float:
    return dice.randint(0, 60)


def moments(dice: Random) -> float:
    return round(60 * dice.random(), 2)


def lived(seed: int, ops: int, draw: Draw = days) -> tuple[RuleBook, list[list[str]]]:
    """A book after so many refunds, and the texts of its rules after each twenty."""
    dice, book, told = Random(seed), RuleBook(), []
    for number in range(1, ops + 1):
        features, success = refund(dice, draw)
        book.consume(an_outcome(success, features))
        if not number % 20:
            learn(book)
            told.append([rule.text().split(" succeeds")[0] for rule in book.rules(ENDPOINT)])
    return book, told


@pytest.mark.parametrize("seed", range(12))
def test_a_clean_threshold_is_told_at_the_last_number_that_was_fine(seed: int) -> None:
    """After 800 calls `age_days>30`, whatever the cut points are; from first to last it is one rule, with one id."""
    book, told = lived(seed, 800)
    (rule,) = book.rules(ENDPOINT)
    assert told[-1] == ["WHEN age_days>30"]
    assert all(len(rules) <= 1 for rules in told)
    assert sum(one != other for one, other in pairwise(told)) <= 6
    assert [each.text() for each in rule.told] == ["age_days>30"]
    assert {condition.field for condition in rule.conditions} == {"age_days"}


@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_among_numbers_that_never_repeat_is_told_nearly(seed: int) -> None:
    """It lies within a hundredth of their range, at a number that was met; a tenth is what cut points alone give."""
    book, told = lived(seed, 1200, moments)
    (rule,) = book.rules(ENDPOINT)
    (condition,) = rule.told
    assert condition.low is not None
    assert abs(condition.low - 30) <= 0.6
    assert told[-1] == [f"WHEN age_days>{condition.low:g}"]


def test_what_is_told_outlives_the_sheet_and_a_restart() -> None:
    """A book that was loaded goes on as the other does; a full sheet hands on the place that was told."""
    dice, book = Random(3), RuleBook()
    other = RuleBook()
    for number in range(1, 5001):
        features, success = refund(dice, days)
        for each in (book, other):
            each.consume(an_outcome(success, features))
            if not number % 50:
                learn(each)
        if number in (700, 4200):
            rows, other = other.take_dirty(), RuleBook()
            other.load(rows | book.take_dirty())
    (rule,) = book.rules(ENDPOINT)
    assert [each.text() for each in rule.told] == ["age_days>30"]
    assert other.rules(ENDPOINT) == [rule]


def test_an_amended_outcome_counts_beside_the_cut_too() -> None:
    """Calls at 31 to 40 days that failed at first were fine after all: the place told moves above them."""
    dice, book = Random(5), RuleBook()
    late: list[str] = []
    for number in range(1, 801):
        features, success = refund(dice, days)
        is_late = 30 < float(features["age_days"]) <= 40
        op_id = f"op-{number}"
        book.consume(an_outcome(success, features, op_id=op_id))
        if is_late and dice.random() < 0.9:
            late.append(op_id)
            book.consume(an_op(endpoint=ENDPOINT, success=True, op_id=f"late-{number}", amends=op_id))
        if not number % 20:
            learn(book)
    (rule,) = book.rules(ENDPOINT)
    assert [each.text() for each in rule.told] == ["age_days>40"]


def test_an_entry_is_told_at_its_place_from_the_first_version_on() -> None:
    """Versions of one entry, its id from the cut point, each for many more calls; none for the same in other words."""
    dice, book, playbook = Random(2), RuleBook(), PlaybookBook()
    follower = RuleFollower(book, playbook)
    written: list[PlaybookEntry] = []
    for number in range(1, 801):
        features, success = refund(dice, days)
        book.consume(an_outcome(success, features, task=f"t-{number}"))
        if not number % 20:
            learn(book)
            for proposal in follower.proposals("2026-01-01T00:00:00.000Z"):
                if isinstance(proposal, PlaybookEntry):
                    playbook.keep(proposal)
                    written.append(proposal)
    (rule,) = book.rules(ENDPOINT)
    assert {entry.playbook_id for entry in written} == {rule_entry_id(rule)}
    assert written[0].when == written[-1].when == {"age_days": Range(above=30.0)}
    assert written[-1].set == {"age_days": Range(up_to=30.0)}
    assert written[-1].scope == [rule.conditions[0].text()]
    places = [entry.when for entry in written]
    moves = sum(one != other for one, other in pairwise(places))
    assert moves == 0
    assert rule.moved != ()
    assert len(written) <= moves + 5  # and one for each doubling of its calls


async def post_refunds(running: Observer, http: httpx.AsyncClient, dice: Random, cycles: int) -> None:
    """Twenty calls before each cycle."""
    for batch in range(cycles):
        events: list[dict[str, Any]] = []
        for number in range(20):
            features, success = refund(dice, days)
            event = {"endpoint": REFUND, "success": success, "features": features, "task": f"t-{batch}-{number}"}
            events.append(event if success else event | {"error": "refused"})
        assert (await http.post("/events", json=events)).json()["accepted"] == 20
        await cycle(running)


async def test_a_newcomer_is_told_the_threshold_of_the_gateway(tmp_path: Path) -> None:
    """800 calls by the door, `/tools/refund` refuses above 30 days: the rule, its entry and advice say 30."""
    async with observer(tmp_path) as running, client(running) as http:
        await post_refunds(running, http, Random(1), 40)
        stats = (await http.get("/stats")).json()
        entries = (await http.get("/playbooks")).json()["playbooks"]
        told = {age: [item for task in range(30) for item in await advised(http, age, task)] for age in (30, 31)}
    (best,) = stats["rules"]["best"]
    assert best.startswith(f"{REFUND}: WHEN age_days>30 succeeds 0 %")
    (entry,) = [entry for entry in entries if entry.get("author") == "rule"]
    assert entry["text"].startswith("Avoid age_days above 30: 0 % of ")
    assert entry["text"].endswith("Rather set age_days at most 30.")
    assert told[30] == []
    assert {item["id"] for item in told[31]} == {entry["playbook_id"]}


async def advised(http: httpx.AsyncClient, age: int, task: int) -> list[dict[str, Any]]:
    """What one task is told that is about to call with this age: half of them have an entry on trial withheld."""
    asked = {"endpoint": REFUND, "age_days": str(age), "task": f"asks-{age}-{task}"}
    items: list[dict[str, Any]] = (await http.get("/advice", params=asked)).json()["advice"]
    return items


async def test_what_is_told_is_rebuilt_from_the_journals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over a restart, the same dump: with the numbers beside the cut, and the place told, which is not the cut."""
    for seed in (1, 2):
        async with observer(tmp_path) as running, client(running) as http:
            await post_refunds(running, http, Random(seed), 12)
            (rule,) = running.books.learning.rules.rules(REFUND)
    assert rule.moved != ()
    before = dumped(tmp_path / "data" / "state.db")
    assert b"borders" in before
    assert b"early" in before
    after, _ = await in_thread(replay, tmp_path, capsys)
    assert after == before
