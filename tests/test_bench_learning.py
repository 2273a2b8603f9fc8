"""`make bench-learning` measures what it says: a few runs of each kind, whose figures and tables are all there."""

from __future__ import annotations

import io
import json
from random import Random

import msgspec
from rich.console import Console

from benchmarks.learning import Runs, measure
from benchmarks.learning_loop import Agents, loop_world, reversal
from benchmarks.learning_report import Report, Sizes, show, wilson
from benchmarks.learning_worlds import World, planted_world, rule_met, same_rule
from sidecar.analysis.rule_counts import Condition
from sidecar.analysis.rule_standing import Rule

_FEW = Sizes(worlds=3, several=1, null_worlds=2, null_cycles=20, loops=1, reversals=1, lives=4, coverage=1)


def test_a_short_run_has_every_figure_and_prints_it() -> None:
    """Thirteen figures with their bounds, tables with rows, in the output and as JSON."""
    said: list[str] = []
    report = measure(_FEW, Runs(1), said.append)
    assert len(said) == 8
    assert [each.bound for each in report.figures] == [
        *["≥ 0.9"] * 6, "≤ 0.05", "≥ 0.8", "≥ 0.9", "≥ 0.85", "≤ 0.05", "≥ 0.95", "≤ 1.8"
    ]  # fmt: skip
    assert all(report.tables.values())
    out = io.StringIO()
    show(report, Console(file=out, width=160))
    assert all(each.name in out.getvalue() for each in report.figures)
    again = msgspec.json.decode(msgspec.json.encode(report), type=Report)
    assert json.dumps(again.tables) == json.dumps(report.tables)


def test_the_same_seed_gives_the_same_world_and_the_same_run() -> None:
    """Figures can be had again."""
    one, other = loop_world(3), loop_world(3)
    assert one.features(Random(1)) == other.features(Random(1))
    first, second = Agents(one, Random(5)), Agents(other, Random(5))
    assert [first.call() for _ in range(60)] == [second.call() for _ in range(60)]


def test_a_rule_that_reverses_is_retired_and_replaced() -> None:
    """Its entry goes, though it helped for a thousand ops, and the reverse stands within 400."""
    found = reversal(1)
    assert found.stood
    assert found.retired is not None
    assert found.replaced is not None


def test_a_rule_is_the_planted_one_where_it_is_about_the_same_calls() -> None:
    """Its own conditions are; the same fields with other values are not."""
    world = next(world for seed in range(100) if _is_on_a_text(world := planted_world(seed)))
    planted = world.planted[0]
    name = planted.conditions[0][0]
    values = next(field.values for field in world.fields if field.name == name)
    wanted = next(value for value in values if planted.met({name: value}))
    other = next(value for value in values if value != wanted)
    assert same_rule(world, planted, a_rule(name, str(wanted)))
    assert not same_rule(world, planted, a_rule(name, str(other)))
    assert not same_rule(world, planted, a_rule("elsewhere", str(wanted)))
    assert rule_met(a_rule(name, str(wanted)), {name: wanted})


def _is_on_a_text(world: World) -> bool:
    fields = {field.name: field.values for field in world.fields}
    conditions = world.planted[0].conditions
    return len(conditions) == 1 and len(fields[conditions[0][0]]) > 2


def a_rule(field: str, value: str) -> Rule:
    return Rule(
        endpoint="/x", conditions=(Condition(field, "is", value),), n=9, successes=1, others=9, other_successes=9,
        low=-1.0, high=0.0, log_e=9.0, since="", seen="",
    )  # fmt: skip


def test_the_monte_carlo_interval_is_wilsons() -> None:
    """Of 95 in 100 it is 0.888 to 0.978; of nothing, everything."""
    assert [round(each, 3) for each in wilson(95, 100)] == [0.888, 0.978]
    assert wilson(0, 0) == (0.0, 1.0)
