"""The live screen of the demo: a fixed number of lines, each cut to the terminal's width, so that nothing moves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sidecar.demo.findings import Finding
from sidecar.demo.observer_doors import Seen
from sidecar.demo.wording import (
    Rate,
    RunInfo,
    by_count,
    entry_text,
    failed_share,
    incident_line,
    lesson_lines,
    op_line,
    printable,
    sources,
)

LEAST_COLUMNS: Final = 60
LEAST_LINES: Final = 20
_HEAD_LINES: Final = 8
_SECTIONS: Final = 5
_LESSON_LINES: Final = 3
_LINE_COLUMNS: Final = 24
_BAR_COLUMNS: Final = 24


class LiveScreen:
    """Draws one picture at a time, in the console's present size."""

    def __init__(self, console: Console, info: RunInfo) -> None:
        self._console = console
        self._info = info
        self._rate = Rate()

    def draw(self, seen: Seen, elapsed_s: float) -> RenderableType:
        """The picture after *elapsed_s* seconds."""
        width, height = self._console.size
        lines: list[RenderableType] = [*self._head(seen, elapsed_s, width)]
        incidents, findings, playbooks, ops = _shares(height - _HEAD_LINES - _SECTIONS - _LESSON_LINES)
        lines += _section("Incidents", len(seen.incidents), _incidents(seen), incidents, width)
        lines += _section("Diagnoses", _diagnosed(seen), _findings(seen), findings, width)
        lines += _section("Advice", _advised(seen), _lesson(seen), _LESSON_LINES, width)
        lines += _section("Summaries of successes", len(seen.playbooks), _playbooks(seen), playbooks, width)
        lines += _section("Last operations", "", _last_ops(seen, ops), ops, width)
        return Group(*lines)

    def _head(self, seen: Seen, elapsed_s: float, width: int) -> list[RenderableType]:
        info = self._info
        look = Text.assemble(" look at  ", (f"{info.address}/", "cyan"), (" /stats /ops /incidents /playbooks", "dim"))
        follow = Text.assemble(" follow   ", (f"observer tail --url {info.address}", "cyan"))
        rate = self._rate.at(elapsed_s, seen.ops)
        counts = Text.assemble(
            (f" {seen.ops} ops", "bold"),
            "   ",
            (f"{seen.failures} failed", "bold red" if seen.failures else ""),
            f" ({failed_share(seen)})",
            f"   {rate:.0f}/s   cycle {seen.cycle}",
        )
        agent = Text.assemble(" try      ", (f"python examples/agent.py {info.proxy} {info.address}", "cyan"))
        calls = Text.assemble(
            " gateway  ", (info.gateway, "cyan"), (", through the proxy ", "dim"), (info.proxy, "cyan")
        )
        files = Text.assemble(" files    ", (f"{info.folder}", "dim"))
        told = [look, follow, calls, agent, files, counts, Text(f" {sources(seen)}", "dim")]
        return [self._title(elapsed_s), *(_cut(line, width) for line in told)]

    def _title(self, elapsed_s: float) -> RenderableType:
        title = Table.grid(expand=True)
        title.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        title.add_column(justify="right", no_wrap=True)
        name = Text.assemble((" Lakehouse Observer", "bold"), (" demo", "dim"))
        seconds = self._info.seconds
        if seconds is None:
            title.add_row(name, Text(f"{elapsed_s:.0f} s, Ctrl-C ends it ", "dim"))
            return title
        for width in (2, _BAR_COLUMNS, 1):
            title.add_column(width=width)
        left_s = max(0.0, seconds - elapsed_s)
        bar = ProgressBar(total=seconds, completed=min(elapsed_s, seconds), width=_BAR_COLUMNS)
        title.add_row(name, Text(f"{left_s:.0f} s left", "dim"), "", bar, "")
        return title


def _shares(lines: int) -> tuple[int, int, int, int]:
    """The numbers of *lines* for incidents, findings (two lines each), summaries and ops."""
    findings = 2 * max(1, round(lines * 0.15))
    playbooks = min(6, max(1, round(lines * 0.16)))
    incidents = max(1, round(lines * 0.36))
    return incidents, findings, playbooks, max(0, lines - findings - playbooks - incidents)


def _section(title: str, count: int | str, rows: Iterable[Text], lines: int, width: int) -> list[Text]:
    head = Text.assemble((f" {title}", "bold"), f" {count} " if count != "" else " ")
    head.append("─" * max(0, width - head.cell_len - 1), "dim")
    shown = [row for row, _ in zip(rows, range(lines), strict=False)]
    shown += [Text("")] * (lines - len(shown))
    return [_cut(line, width) for line in (head, *shown)]


def _cut(line: Text, width: int) -> Text:
    line.truncate(width - 1, overflow="ellipsis")
    line.no_wrap = True
    return line


def _incidents(seen: Seen) -> Iterable[Text]:
    for incident in by_count(seen.incidents):
        yield Text.assemble((f"{incident.count:5}", "red"), "  ", incident_line(incident))


def _diagnosed(seen: Seen) -> str:
    findings = seen.findings.newest_first()
    if not findings:
        return "0"
    explained = sum(not finding.is_open for finding in findings)
    by = ", ".join(sorted({printable(finding.by) for finding in findings}))
    return f"{len(findings)}, {explained} explained, by {by}"


def _findings(seen: Seen) -> Iterable[Text]:
    for finding in seen.findings.newest_first():
        yield from _finding_lines(finding)


def _finding_lines(finding: Finding) -> tuple[Text, Text]:
    what = Text.assemble(
        (f"{finding.failures:5}", "red"), "  ", printable(f"{finding.endpoint}: {finding.message}"), style="dim"
    )
    by = "" if finding.by == "statistics" else f"{finding.by}: "
    return what, Text.assemble("       → ", (printable(by + finding.why), "" if finding.is_open else "yellow"))


def _advised(seen: Seen) -> str:
    lesson = seen.lessons.best()
    count = len(seen.lessons.entries)
    rules = "1 rule" if count == 1 else f"{count} rules"
    return rules if lesson is None else f"{rules}, the best: {lesson.effect}, {lesson.state}"


def _lesson(seen: Seen) -> Iterable[Text]:
    lesson = seen.lessons.best()
    if lesson is None:
        yield Text(
            "       when failures share what agents may choose, some of them, drawn at random, are told",
            "dim",
        )
        return
    shown, withheld = lesson_lines(lesson, _LINE_COLUMNS)
    yield Text(f"  {printable(entry_text(lesson.entry))}")
    yield Text(f"  {shown}", "green")
    yield Text(f"  {withheld}", "red")


def _playbooks(seen: Seen) -> Iterable[Text]:
    if not seen.playbooks:
        yield Text("       consolidated in every fifth cycle", "dim")
    for entry in seen.playbooks:
        line = f"  {entry.endpoint} v{entry.version}, {entry.avg_duration_ms:.0f} ms, {entry.text}"
        yield Text.assemble((f"{entry.successes:5}", "green"), printable(line))


def _last_ops(seen: Seen, most: int) -> Iterable[Text]:
    for op in list(seen.last_ops)[-most:] if most else []:
        mark = (" ok   ", "green") if op.success else (" fail ", "red")
        source = f"{printable(op.source or 'mcp')[:19]:8} "
        yield Text.assemble((f" {op.timestamp[11:19]}", "dim"), mark, (source, "dim"), op_line(op))
