"""`observer report`: what was learnt and whether it helped: tables or JSON, and with --html a page with charts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from sidecar.commands.observer_client import observer_client
from sidecar.commands.private_file import write_private
from sidecar.commands.report_data import Estimate, ReportData, avoided, gather, open_words
from sidecar.commands.report_html import html
from sidecar.commands.terminal import Terminal, padded, visible, visible_json, wrapped
from sidecar.errors import StartError
from sidecar.measured_words import effect_words, is_known
from sidecar.model_learning import PlaybookView

_WIDEST = 140  # columns
_INDENT = 10  # of the lines that a long one goes on in
_MOST = 12


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Print the report, write the file if one is named, and return 0. Raises AskError, StartError."""
    with observer_client(args.url, args.token, env) as client:
        data = gather(client, datetime.now(UTC))
    terminal = Terminal(sys.stdout, env)
    if args.json:
        terminal.write(visible_json(msgspec.json.encode(data).decode()))
    else:
        for line, colour in _lines(data, terminal.width):
            terminal.write(terminal.paint(line, colour))
    if args.html is not None:
        _write_page(Path(args.html), data)
        Terminal(sys.stderr if args.json else sys.stdout, env).write(f"written: {args.html}")
    return 0


def _write_page(path: Path, data: ReportData) -> None:
    try:
        write_private(path, html(data).encode())
    except OSError as exc:
        raise StartError(f"{path} cannot be written", str(exc), "Name another file with --html") from exc


def _lines(data: ReportData, width: int | None) -> Iterator[tuple[str, str]]:
    columns = min(width, _WIDEST) if width is not None else None
    yield f"what the observer at {visible(data.url)} learnt, {data.day_and_time}", "bold"
    share = f" ({100 * data.failures / data.operations:.0f} %)" if data.operations else ""
    counts = f"{data.operations_in_all:,}; of the last {data.operations:,} {data.failures:,} failed{share}"
    yield f"  operations        {counts}", ""
    yield f"  advice            {data.tasks:,} tasks; since start {data.asked:,} asked, {data.told:,} items told", ""
    yield f"  effect            {effect_words(data.measured)}; of all advice so far", ""
    yield f"  failures avoided  {_range(data.avoided)}", _colour(data.avoided)
    yield from _entries(data, columns)
    yield from _incidents(data, columns)


def _range(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "not known yet"
    if found.low <= 0 <= found.high:
        return f"not known yet (between {found.low:,.0f} and {found.high:,.0f})"
    return f"{found.value:,.0f} ({found.low:,.0f} to {found.high:,.0f})"


def _colour(found: Estimate) -> str:
    return "green" if found.low is not None and found.low > 0 else ""


def _entries(data: ReportData, columns: int | None) -> Iterator[tuple[str, str]]:
    told = [each for each in data.entries if each.measured is not None or each.author != "successes"]
    yield (
        f"entries by effect  {len(told)}{'; ? means not known yet, new words are measured anew' if told else ''}",
        "bold",
    )
    if told:
        yield "  points          interval  shown  withheld  avoided  state      entry", "dim"
    for each in told[:_MOST]:
        told_as = f"  {_entry(each)}  {visible(each.endpoint)}: {visible(each.text)}"
        for line in wrapped(told_as, columns, _INDENT):
            yield line, _colour(avoided(each.measured))
    if len(told) > _MOST:
        yield f"  and {len(told) - _MOST} more", "dim"


def _entry(each: PlaybookView) -> str:
    measured = each.measured
    state = padded(each.state, 9)
    if measured is None or measured.effect is None:
        return f"{'–':>6}{'–':>18}{'–':>7}{'–':>10}{'–':>9}  {state}"
    between = f"{100 * (measured.low or 0.0):+.0f} to {100 * (measured.high or 0.0):+.0f}"
    counts = f"{measured.shown.tasks:>7,}{measured.withheld.tasks:>10,}"
    if not is_known(measured):
        return f"{'?':>6}{between:>18}{counts}{'?':>9}  {state}"
    return f"{100 * measured.effect:>+6.0f}{between:>18}{counts}{avoided(measured).value or 0.0:>9,.0f}  {state}"


def _incidents(data: ReportData, columns: int | None) -> Iterator[tuple[str, str]]:
    yield f"incidents          {open_words(data.incidents)}", "bold"
    if data.incidents:
        yield "   count  state      last seen, UTC    incident", "dim"
    for each in data.incidents[:_MOST]:
        what = f"{visible(each.endpoint)}: {visible(each.message)}"
        told_as = f"{each.count:>8,}  {padded(each.state, 10)} {each.last}  {what}"
        for line in wrapped(told_as, columns, _INDENT):
            yield line, ""
    if len(data.incidents) > _MOST:
        yield f"  and {len(data.incidents) - _MOST} more", "dim"
