"""Formats measurements as tables for people and JSON for programs, with the targets."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Measured

NOOP, OBSERVER, REFERENCE = "no-op", "observer", "reference"
SCHEMA_VERSION = 1

_BUSY = 0.9  # a load generator busier than this may itself be the limit
_SATURATED = 0.8  # a server that used less of its core was held up by something else


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A bound and the measured value; *met* is None if nothing was measured.

    *in_doubt*: a ratio between servers of which one did not get its core. *by_cpu* is the better estimate then.
    """

    name: str
    bound: str
    value: float | None
    met: bool | None
    by_cpu: float | None = None
    in_doubt: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All results of one run. Starts in seconds, memory in MiB, by server."""

    at: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    measured: list[Measured]
    starts_s: dict[str, list[float]]
    at_rest_mib: dict[str, float]
    after_load_mib: dict[str, float]
    v: int = SCHEMA_VERSION

    def targets(self) -> list[Target]:
        """The observer's targets, with this run's values."""
        start = statistics.median(self.starts_s[OBSERVER]) if self.starts_s.get(OBSERVER) else None
        targets = [
            self._ratio("POST /event, 16 connections, × no-op", 0.40, "event_16", NOOP),
            _most("resident at rest, MiB", 80, self.at_rest_mib.get(OBSERVER)),
            _most("resident after load, MiB", 120, self.after_load_mib.get(OBSERVER)),
            _most("start to ready, s", 1.5, start),
        ]
        if any(REFERENCE in each.samples for each in self.measured):
            targets += [
                self._ratio("POST /event, 16 connections, × reference", 0.45, "event_16", REFERENCE),
                self._ratio("POST /events, events/s × reference's /event", 1.5, "events_batch", REFERENCE),
            ]
        return targets

    def _ratio(self, name: str, bound: float, scenario: str, base: str) -> Target:
        """The target of at least *bound* times *base* under *scenario*."""
        found = next((each for each in self.measured if each.scenario.name == scenario), None)
        ratios = found.ratios(OBSERVER, base) if found is not None and base in found.samples else []
        if found is None or not ratios:
            return Target(name=name, bound=f"≥ {bound:g}", value=None, met=None)
        value = statistics.median(ratios)
        return Target(
            name=name,
            bound=f"≥ {bound:g}",
            value=value,
            met=value >= bound,
            by_cpu=found.cpu_ratio(OBSERVER, base),
            in_doubt=any(_held_up(found, server) for server in (OBSERVER, base)),
        )


def _held_up(each: Measured, server: str) -> bool:
    busy = each.server_busy(server)
    return each.scenario.connections > 1 and busy is not None and busy < _SATURATED


def _most(name: str, bound: float, value: float | None) -> Target:
    return Target(name=name, bound=f"≤ {bound:g}", value=value, met=None if value is None else value <= bound)


def to_json(report: Report) -> bytes:
    """The report as JSON with medians, targets and every sample."""
    whole = msgspec.to_builtins(report)
    for each, plain in zip(report.measured, whole["measured"], strict=True):
        plain["summary"] = {name: _summary(each, name) for name in each.samples}
    whole["targets"] = msgspec.to_builtins(report.targets())
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


def _summary(each: Measured, server: str) -> dict[str, Any]:
    p50_ms, p99_ms = each.latency_ms(server)
    ratios = {base: each.ratios(server, base) for base in each.samples if base != server}
    return {
        "per_s": each.rate(server),
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        "cpu_us_per_event": each.cpu_us(server),
        "server_busy": each.server_busy(server),
        "failed": each.failed(server),
        "ratio": {base: statistics.median(found) for base, found in ratios.items() if found},
        "cpu_ratio": {base: each.cpu_ratio(server, base) for base in ratios},
    }


def show(report: Report, console: Console) -> None:
    """Print the tables, the environment, and which targets are met."""
    _show_setting(report, console)
    console.print(_loads(report.measured))
    console.print(_ratios(report.measured))
    console.print(_health(report.measured))
    console.print(_processes(report))
    console.print(_targets(report.targets()))
    for line in _doubts(report):
        console.print(f"note: {line}", style="yellow", highlight=False)


def _show_setting(report: Report, console: Console) -> None:
    machine, settings = report.machine, report.settings
    begun, ended = machine["load_average"][0], machine["load_average_after"][0]
    place = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mib']} MiB, {machine['kernel']}"
    cores = f"servers on core {settings['server_core']}, load generator on core {settings['load_core']}"
    rounds = f"{settings['rounds']} rounds of {settings['seconds']:g} s each, interleaved"
    console.print(f"{place}, data on {machine['data_file_system']}", highlight=False)
    console.print(" ".join(f"{name} {version}" for name, version in report.versions.items()), highlight=False)
    console.print(f"{cores}; {rounds}; load average {begun:.1f} before, {ended:.1f} after", highlight=False)


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return table


def _loads(measured: Sequence[Measured]) -> Table:
    columns = ("load", "server", "events/s", "p50 ms", "p99 ms", "CPU µs/event", "CPU busy", "failed")
    table = _table("Throughput and latency (medians of the rounds)", *columns, left=2)
    for each in measured:
        for name in each.samples:
            p50_ms, p99_ms = each.latency_ms(name)
            cpu, busy, failed = each.cpu_us(name), each.server_busy(name), each.failed(name)
            table.add_row(
                _title(each, name),
                name,
                f"{each.rate(name):,.0f}",
                f"{p50_ms:.2f}",
                f"{p99_ms:.2f}",
                "" if cpu is None else f"{cpu:.1f}",
                "" if busy is None else f"{busy:.0%}",
                f"[red]{failed}[/red]" if failed else "0",
            )
        table.add_section()
    return table


def _ratios(measured: Sequence[Measured]) -> Table:
    bases = [base for base in (NOOP, REFERENCE) if any(base in each.samples for each in measured)]
    columns = [column for base in bases for column in (f"× {base}", "least–most", "by CPU")]
    table = _table("The observer's events/s against the others' (median of the rounds' ratios)", "load", *columns)
    for each in measured:
        table.add_row(_title(each, OBSERVER), *(cell for base in bases for cell in _ratio_cells(each, base)))
    return table


def _ratio_cells(each: Measured, base: str) -> tuple[str, str, str]:
    ratios = each.ratios(OBSERVER, base)
    by_cpu = each.cpu_ratio(OBSERVER, base)
    return (
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}–{max(ratios):.2f}",
        "" if by_cpu is None else f"{by_cpu:.2f}",
    )


def _title(each: Measured, server: str) -> str:
    scenario = each.scenario
    if scenario.events > 1 and server == REFERENCE:
        return "POST /event, 16 conn. (no batches)"
    batch = f" of {scenario.events}" if scenario.events > 1 else ""
    extras = " with extras" if scenario.body == "extras" else ""
    return f"POST {scenario.path}{batch}{extras}, {scenario.connections} conn."


def _health(measured: Sequence[Measured]) -> Table:
    table = _table("GET /health while under load", "load", "server", "p50 ms", "p99 ms", "n", left=2)
    for each in measured:
        if each.scenario.probe:
            for name in each.samples:
                p50_ms, p99_ms, count = each.probe_ms(name)
                table.add_row(_title(each, name), name, f"{p50_ms:.2f}", f"{p99_ms:.2f}", str(count))
    return table


def _processes(report: Report) -> Table:
    table = _table("Process", "server", "start s (median)", "least–most, n", "MiB at rest", "MiB after load")
    for name, starts in report.starts_s.items():
        table.add_row(
            name,
            f"{statistics.median(starts):.2f}",
            f"{min(starts):.2f}–{max(starts):.2f}, {len(starts)}",
            _mib(report.at_rest_mib, name),
            _mib(report.after_load_mib, name),
        )
    return table


def _mib(sizes: Mapping[str, float], name: str) -> str:
    return f"{sizes[name]:.1f}" if name in sizes else "?"


def _targets(targets: Sequence[Target]) -> Table:
    table = _table("Targets", "what", "target", "measured", "by CPU", "")
    for target in targets:
        value = "" if target.value is None else f"{target.value:.2f}"
        by_cpu = "" if target.by_cpu is None else f"{target.by_cpu:.2f}"
        table.add_row(target.name, target.bound, value, by_cpu, _verdict(target))
    return table


def _verdict(target: Target) -> str:
    if target.met is None:
        return "not measured"
    said = "met" if target.met else "not met"
    if target.in_doubt:
        return f"[yellow]{said}, in doubt[/yellow]"
    return f"[green]{said}[/green]" if target.met else f"[red]{said}[/red]"


def _doubts(report: Report) -> list[str]:
    """Reasons for doubt that a reader should know."""
    doubts = []
    cores = report.machine["cores"]
    before, after = report.machine["load_average"][0], report.machine["load_average_after"][0]
    if before > 0.5 * cores:
        doubts.append(f"load average {before:.1f} on {cores} cores before this run: other processes were working")
    elif after > 2.5:
        doubts.append(
            f"load average {after:.1f} after this run, which itself makes about 2: other processes worked too"
        )
    if report.settings["server_core"] == "any":
        doubts.append("servers and load generator share their cores: ratios are flattened")
    held_up = [f"{m.scenario.name} {name}" for m in report.measured for name in m.samples if _held_up(m, name)]
    if held_up:
        doubts.append(
            f"these servers got under {_SATURATED:.0%} of their core, so their throughput is not their own and ratios "
            f"`by CPU` are the better guess: {', '.join(held_up)}"
        )
    for each in report.measured:
        for name, samples in each.samples.items():
            busy = statistics.median(sample.load.busy for sample in samples)
            if busy > _BUSY:
                doubts.append(
                    f"{each.scenario.name}, {name}: the load generator was {busy:.0%} busy and may be the limit"
                )
    return doubts
