"""The demo's output as plain lines: events as they happen, and the summary at the end; lines have a maximum width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sidecar.demo.findings import Finding
from sidecar.demo.observer_doors import Seen
from sidecar.demo.wording import (
    Rate,
    RunInfo,
    entry_text,
    failed_share,
    incident_line,
    lesson_lines,
    printable,
    reasons,
    sources,
)
from sidecar.measured_words import effect_words

_MOST_REASONS: Final = 8
_MOST_FINDINGS: Final = 5
_LINE_COLUMNS: Final = 22  # so that a line with a thousand tasks fits 80 columns


def opening(info: RunInfo) -> Iterator[str]:
    """What is running and where to look."""
    yield f"Lakehouse Observer demo: a staffing gateway, {info.agents} agents, the observer beside them"
    yield f"  ends     {_end(info)}"
    yield f"  look at  {info.address} (and /stats, /ops, /incidents, /playbooks, /metrics)"
    yield f"  follow   observer tail --url {info.address}"
    yield f"  gateway  {info.gateway}, and through the observer's proxy {info.proxy}"
    yield f"  try      python examples/agent.py {info.proxy} {info.address}"
    yield f"  files    {info.folder} (journal, corrections, observer.log)"
    yield ""


def _end(info: RunInfo) -> str:
    if info.seconds is None:
        return "at Ctrl-C, with a summary; --seconds N ends it by itself"
    why = "--seconds" if info.is_limit_given else "as there is no terminal; --seconds N says otherwise"
    return f"after {info.seconds:g} s ({why}), with a summary"


class PlainLines:
    """Prints each new incident, finding, rule and summary once, counts on request; at most *columns* columns wide."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._said: set[tuple[str, ...]] = set()
        self._rate = Rate()

    def status(self, seen: Seen, elapsed_s: float) -> str:
        """One line of counts."""
        rate = self._rate.at(elapsed_s, seen.ops)
        return self._cut(f"{elapsed_s:5.1f} s  {seen.ops} ops, {seen.failures} failed, {rate:.0f}/s: {sources(seen)}")

    def lesson(self, seen: Seen, elapsed_s: float) -> Iterator[str]:
        """The success of tasks with and without the best advice; empty until both groups have a task."""
        lesson = seen.lessons.best()
        if lesson is not None and lesson.shown.arm.tasks and lesson.withheld.arm.tasks:
            for number, line in enumerate(lesson_lines(lesson, _LINE_COLUMNS)):
                yield self._cut(f"{elapsed_s:5.1f} s  {'advice' if not number else '':10}  {line}")

    def news(self, seen: Seen, elapsed_s: float) -> Iterator[str]:
        """Everything not printed yet."""
        at = f"{elapsed_s:5.1f} s"
        for incident in reversed(seen.incidents):
            if self._is_new("incident", incident.fingerprint):
                yield self._cut(f"{at}  incident    {incident_line(incident)}")
        for finding in reversed(seen.findings.newest_first()):
            if not finding.is_open and self._is_new("finding", finding.fingerprint, finding.key):
                yield from _wrapped(f"{at}  diagnosis   ", _told(finding), self._columns)
        for entry in reversed(seen.lessons.entries):
            if self._is_new("rule", entry.playbook_id, entry.state):
                yield from _wrapped(
                    f"{at}  rule        ", f"{entry.state}: {printable(entry_text(entry))}", self._columns
                )
        for entry in reversed(seen.playbooks):
            if self._is_new("playbook", entry.playbook_id, str(entry.version)):
                learnt = f"{printable(entry.endpoint)} v{entry.version}: {entry.successes} successes"
                yield self._cut(f"{at}  summary     {learnt}, {entry.avg_duration_ms:.0f} ms on average")

    def _is_new(self, *what: str) -> bool:
        is_new = what not in self._said
        self._said.add(what)
        return is_new

    def _cut(self, line: str) -> str:
        return _cut(line, self._columns)


def summary(
    info: RunInfo, seen: Seen, elapsed_s: float, gateway_log: Sequence[dict[str, Any]], kept: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """The results of the run; *kept* are (what, where) of the files that stay, which are never cut."""
    yield from (_cut(line, info.columns) for line in _results(info, seen, elapsed_s))
    yield from (_cut(line, info.columns) for line in _posts(gateway_log))
    for what, where in kept:
        yield f"  {what:10}  {where}"


def _results(info: RunInfo, seen: Seen, elapsed_s: float) -> Iterator[str]:
    yield f"After {elapsed_s:.0f} s (seed {info.seed})"
    rate = seen.ops / max(elapsed_s, 0.1)
    yield f"  operations  {seen.ops} ({rate:.1f}/s): {sources(seen)}"
    yield f"  failures    {seen.failures} ({failed_share(seen)}), by reason"
    told = reasons(seen)
    for message, count in told[:_MOST_REASONS]:
        yield f"    {count:6}    {message}"
    if rest := told[_MOST_REASONS:]:
        yield f"    {sum(count for _, count in rest):6}    in {len(rest)} more"
    yield from _explained(seen, info.columns)
    yield from _lesson(seen, info.columns)
    yield f"  summaries   {len(seen.playbooks)} of successes, posted to the gateway's /log"
    for entry in sorted(seen.playbooks, key=lambda each: -each.successes)[:_MOST_REASONS]:
        yield f"    {entry.successes:6}    {printable(entry.endpoint)} v{entry.version}"


def _lesson(seen: Seen, columns: int) -> Iterator[str]:
    """The effect of all advice, as `observer stats` and the page have it; then the entry that tells most of it."""
    lesson = seen.lessons.best()
    rules = len(seen.lessons.entries)
    of = "one entry" if rules == 1 else f"{rules} entries"
    if lesson is None:
        became = "rule became an entry" if rules == 1 else "rules became entries"
        yield f"  advice      {rules} {became}, none that agents could act by yet"
        return
    yield f"  advice      {effect_words(seen.measured)}"
    told = f"the best of {of}, {lesson.effect} ({lesson.state}): {entry_text(lesson.entry)}"
    yield from _wrapped("              ", printable(told), columns)
    for line in lesson_lines(lesson, _LINE_COLUMNS):
        yield f"              {line}"


def _explained(seen: Seen, columns: int) -> Iterator[str]:
    """The largest findings on failures; of equal messages at several endpoints only one."""
    failing = {incident.fingerprint for incident in seen.incidents if incident.kind == "failure"}
    explained = [each for each in seen.findings.newest_first() if not each.is_open and each.fingerprint in failing]
    largest = {finding.message: finding for finding in sorted(explained, key=lambda each: each.failures)}
    yield f"  incidents   {len(seen.incidents)}; of {len(explained)} it is known what sets them apart from successes"
    for finding in sorted(largest.values(), key=lambda each: -each.failures)[:_MOST_FINDINGS]:
        yield from _wrapped(f"    {finding.failures:6}    ", _told(finding), columns)


def _posts(entries: Sequence[dict[str, Any]]) -> Iterator[str]:
    operations = [str(entry.get("operation", "?")) for entry in entries]
    diagnoses = sum(operation.startswith("error_analysis") for operation in operations)
    yield f"  gateway     /log has {len(entries)} posts: {diagnoses} diagnoses, {len(entries) - diagnoses} summaries"
    if operations:
        yield f"              the last: {printable(operations[-1])}"


def _told(finding: Finding) -> str:
    by = "" if finding.by == "statistics" else f" (by {finding.by})"
    return printable(f"{finding.endpoint}: {finding.message} — {finding.why}{by}")


def _wrapped(head: str, text: str, columns: int) -> list[str]:
    indent = " " * len(head)
    return textwrap.wrap(text, columns, initial_indent=head, subsequent_indent=indent, max_lines=3, placeholder=" …")


def _cut(line: str, columns: int) -> str:
    return line if len(line) <= columns else line[: columns - 1] + "…"
