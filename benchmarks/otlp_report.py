"""The results of the OTLP benchmark: one run, a row of runs, the report, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.load import percentile


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One server under one load, once. *lost* spans never arrived; *mib* is the resident memory afterwards."""

    spans: int
    elapsed_s: float
    cpu_s: float
    lost: int
    repeated: int
    pushed_back: int
    p99_ms: float
    mib: float | None

    @property
    def rate(self) -> float:
        """Spans per second."""
        return self.spans / self.elapsed_s


def row_of(name: str, load: str, runs: Sequence[Run], against: Sequence[Run] = ()) -> Row:
    """The row of *runs*; its ratios are to the runs *against*, round by round."""
    return Row(
        server=name,
        load=load,
        spans_per_s=[each.rate for each in runs],
        cpu_us_per_span=[each.cpu_s * 1e6 / each.spans for each in runs],
        busy=[each.cpu_s / each.elapsed_s for each in runs],
        lost=sum(each.lost for each in runs),
        repeated=sum(each.repeated for each in runs),
        pushed_back=sum(each.pushed_back for each in runs),
        p99_ms=[each.p99_ms for each in runs],
        after_mib=runs[-1].mib,
        ratios=[mine.rate / theirs.rate for mine, theirs in zip(runs, against, strict=True)] if against else [],
    )


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One server under one load, a value per round.

    *lost* spans never arrived; *ratios* are to the Collector's rate.
    """

    server: str
    load: str
    spans_per_s: list[float]
    cpu_us_per_span: list[float]
    busy: list[float]
    lost: int
    repeated: int
    pushed_back: int
    p99_ms: list[float]
    after_mib: float | None
    ratios: list[float] = []


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All results. *watch_ms* are the delays from acknowledgement to `Watch`, op by op."""

    machine: Mapping[str, object]
    settings: Mapping[str, object]
    rows: list[Row]
    watch_ms: list[float]


def show(report: Report, console: Console) -> None:
    """Print the table and the notes."""
    table = Table(title="OTLP out, per second on one core, until the last span has arrived")
    for column in (
        "server",
        "load",
        "spans/s",
        "of the Collector",
        "CPU us/span",
        "CPU busy",
        "p99 ms",
        "lost",
        "again",
    ):
        table.add_column(column, justify="left" if column in ("server", "load") else "right")
    for row in report.rows:
        ratio = f"{_middle(row.ratios):.2f} ({min(row.ratios):.2f}-{max(row.ratios):.2f})" if row.ratios else "-"
        table.add_row(
            row.server,
            row.load,
            f"{_middle(row.spans_per_s):,.0f}",
            ratio,
            f"{_middle(row.cpu_us_per_span):.1f}",
            f"{_middle(row.busy):.0%}",
            f"{_middle(row.p99_ms):.0f}",
            str(row.lost),
            str(row.repeated),
        )
    console.print(table)
    waited = sorted(report.watch_ms)
    if waited:
        console.print(
            f"Watch: an op is seen {percentile(waited, 0.5):.1f} ms after its acknowledgement (p50),"
            f" {percentile(waited, 0.99):.1f} ms (p99), {waited[-1]:.1f} ms (most) of {len(waited)}",
            highlight=False,
        )
    if not any(row.server == "collector" for row in report.rows):
        console.print("The Collector was not there: make peers builds it (needs Go)", highlight=False)


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
