"""Figures of what is learnt, with their bounds and intervals, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table


class Sizes(msgspec.Struct, frozen=True):
    """The number of runs of each kind."""

    worlds: int = 300
    several: int = 150  # worlds of two rules, and as many of three
    null_worlds: int = 200
    null_cycles: int = 1000
    loops: int = 100
    reversals: int = 60
    lives: int = 300
    coverage: int = 400


class Figure(msgspec.Struct, frozen=True):
    """A figure with a bound: the *value*, its interval, the bound as text, and whether it is *met*."""

    name: str
    bound: str
    value: float
    met: bool
    runs: int
    low: float | None = None
    high: float | None = None


class Report(msgspec.Struct):
    """All results."""

    sizes: Sizes
    machine: dict[str, Any]
    versions: dict[str, str]
    seconds: float
    figures: list[Figure]
    tables: dict[str, list[dict[str, Any]]]


def at_least(name: str, bound: float, good: int, runs: int) -> Figure:
    low, high = wilson(good, runs)
    value = good / runs if runs else 0.0
    return Figure(name, f"≥ {bound:g}", value, value >= bound, runs, low, high)


def at_most(name: str, bound: float, bad: int, runs: int) -> Figure:
    low, high = wilson(bad, runs)
    value = bad / runs if runs else 0.0
    return Figure(name, f"≤ {bound:g}", value, value <= bound, runs, low, high)


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a simulated share (Wilson 1927)."""
    if not n:
        return 0.0, 1.0
    rate = successes / n
    middle, half = rate + z * z / (2 * n), z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def share(count: int, of: int) -> float | None:
    return round(count / of, 3) if of else None


def show(report: Report, console: Console) -> None:
    """Print all tables, then the figures that have a bound."""
    place = report.machine
    console.print(
        f"{place['cpu']}, {place['cores']} cores; python {report.versions['python']}; {report.seconds:,.0f} s",
        highlight=False,
    )
    for title, rows in report.tables.items():
        console.print(_table(title, list(rows[0]), ([*map(_cell, row.values())] for row in rows)))
    console.print(
        _table("Figures", ["what", "bound", "measured", "95 %", "runs", ""], map(_figure_row, report.figures))
    )


def _figure_row(each: Figure) -> list[str]:
    between = "" if each.low is None or each.high is None else f"{each.low:.3f}–{each.high:.3f}"
    if each.met:
        said = "[green]met[/green]"
    else:
        said = "[red]not met[/red]"
        if each.low is not None and each.high is not None and each.low <= float(each.bound[2:]) <= each.high:
            said = "[yellow]not met, within error[/yellow]"
    return [each.name, each.bound, f"{each.value:.3f}", between, f"{each.runs:,}", said]


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
