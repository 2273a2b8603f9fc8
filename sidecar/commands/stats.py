"""`observer stats`: `/stats` of a running observer, as a table on a terminal and as plain lines otherwise."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from sidecar.commands.observer_client import observer_client
from sidecar.commands.op_line import op_line
from sidecar.commands.terminal import Terminal, visible, visible_json
from sidecar.measured_words import is_known
from sidecar.model import ObservedOp
from sidecar.model_learning import Measured

_BAR = 24  # columns
_LATEST = "10"  # operations


class _Rules(msgspec.Struct):
    found: int = 0


class _Advice(msgspec.Struct):
    """*measured* has both groups, and the effect between `low` and `high`."""

    asked: int = 0
    told: int = 0
    entries: dict[str, int] = {}
    measured: Measured | None = None


class _Stats(msgspec.Struct):
    """The response; fields that an older or newer observer does not have stay empty."""

    total: int
    successes: int
    failures: int
    by_source: dict[str, int] = {}
    cycle: int = 0
    incidents: int = 0
    playbooks: int = 0
    rules: _Rules = msgspec.field(default_factory=_Rules)
    advice: _Advice = msgspec.field(default_factory=_Advice)
    operations_in_all: int = 0
    lost: dict[str, int] = {}


class _Ops(msgspec.Struct):
    """A page of `/ops`, the newest first."""

    ops: list[ObservedOp] = []


class _Row(NamedTuple):
    label: str
    value: str
    share: float | None = None
    colour: str = ""


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Print the statistics and return 0. Raises AskError."""
    with observer_client(args.url, args.token, env) as client:
        body = client.get("/stats")
        stats: _Stats = client.decoded(body, _Stats)
        url = client.url
        latest: _Ops = _Ops() if args.json else client.decoded(client.get("/ops", {"limit": _LATEST}), _Ops)
    terminal = Terminal(sys.stdout, env)
    if args.json:
        terminal.write(visible_json(body.decode()))
        return 0
    if terminal.width is None:
        _print_plain(terminal, url, stats)
    else:
        _print_tables(terminal, url, stats)
    if latest.ops:
        terminal.write("last operations")
    for op in reversed(latest.ops):
        terminal.write(op_line(op, terminal))
    return 0


def _sections(stats: _Stats) -> list[tuple[str, list[_Row]]]:
    sources = sorted(stats.by_source.items(), key=lambda item: -item[1])
    lost = [(cause, count) for cause, count in stats.lost.items() if count]
    sections = [
        (
            "operations in memory",
            [
                _Row("all", f"{stats.total:,}"),
                _share("succeeded", stats.successes, stats.total, "green"),
                _share("failed", stats.failures, stats.total, "red" if stats.failures else ""),
                _Row("ever recorded", f"{stats.operations_in_all:,}"),
            ],
        ),
        ("by source", [_share(visible(name), count, stats.total, "cyan") for name, count in sources]),
        (
            "learnt",
            [
                _Row("cycles", f"{stats.cycle:,}"),
                _Row("incidents", f"{stats.incidents:,}"),
                _Row("rules", f"{stats.rules.found:,}"),
                _Row("playbook entries", f"{stats.playbooks:,}"),
                *(_Row(f"  {visible(state)}", f"{count:,}") for state, count in stats.advice.entries.items() if count),
                *_advice(stats.advice),
            ],
        ),
        (
            "lost",
            [_Row(visible(cause).replace("_", " "), f"{count:,}", None, "red") for cause, count in lost]
            or [_Row("nothing", "0", None, "green")],
        ),
    ]
    return [(title, rows) for title, rows in sections if rows]


def _advice(advice: _Advice) -> list[_Row]:
    """How often advice was given, and whether it helped."""
    rows = [_Row("advice asked, since start", f"{advice.asked:,}"), _Row("  items told", f"{advice.told:,}")]
    measured = advice.measured
    if measured is None:
        return rows
    if measured.effect is not None and measured.low is not None and measured.high is not None:
        between = f"{100 * measured.low:+.0f} to {100 * measured.high:+.0f}"
        said = f"{100 * measured.effect:+.0f} ({between})" if is_known(measured) else f"not known yet ({between})"
        rows.append(_Row("  effect, points", said))
    for name, arm in (("shown", measured.shown), ("withheld", measured.withheld)):
        rows.append(_Row(f"  tasks {name}", f"{arm.tasks:,}"))
        rows += [_Row("    only reported", f"{arm.reported:,}")] if arm.reported else []
    return rows


def _share(label: str, count: int, total: int, colour: str) -> _Row:
    return _Row(label, f"{count:,}", count / total if total else 0.0, colour)


def _print_plain(terminal: Terminal, url: str, stats: _Stats) -> None:
    terminal.write(f"observer at {url}")
    for title, rows in _sections(stats):
        terminal.write(title)
        for row in rows:
            share = f"  {row.share:6.1%}" if row.share is not None else ""
            terminal.write(f"  {row.label:<28}{row.value:>12}{share}")


def _print_tables(terminal: Terminal, url: str, stats: _Stats) -> None:
    from rich.console import Console, Group  # noqa: PLC0415 - slow to import, only needed on a terminal
    from rich.panel import Panel  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    def heading(text: str) -> Text:
        return Text(f"\n{text}" if parts else text, style="bold")

    parts: list[Any] = []
    for title, rows in _sections(stats):
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
        table.add_column(min_width=26, no_wrap=True, overflow="ellipsis")
        table.add_column(justify="right", min_width=9)
        table.add_column(justify="right", min_width=7, style="dim")
        table.add_column(no_wrap=True)
        for row in rows:
            share = "" if row.share is None else f"{row.share:.1%}"
            bar = "━" * round(_BAR * (row.share or 0))
            table.add_row(Text(row.label), Text(row.value, row.colour), share, Text(bar, row.colour))
        parts += [heading(title), table]
    console = Console(
        file=terminal.out,
        force_terminal=True,
        color_system="standard" if terminal.colours else None,
        width=_width(terminal),
    )
    console.print(
        Panel(Group(*parts), title=Text(f"observer at {url}", "not dim bold"), title_align="left", border_style="dim")
    )


def _width(terminal: Terminal) -> int:
    return min(terminal.width or 80, 96)
