"""The playbook as text: terminal lines and Markdown. Its contents came from senders: nothing is used as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from sidecar.commands.terminal import visible
from sidecar.measured_words import effect_words, is_known
from sidecar.model_learning import Measured, is_wordless

MARKDOWN_TITLE: Final = "# Playbook"
_HEAD = ("id", "state", "kind", "version", "calls", "effect", "endpoint", "text")


def summary_lines(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per entry, below a heading."""
    if not entries:
        return ["the playbook has no entries yet"]
    rows = [_HEAD, *(_row(entry) for entry in entries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]


def told_lines(entry: Mapping[str, Any]) -> Iterable[str]:
    """The lines of one entry in full."""
    yield f"{_text(entry, 'playbook_id')} v{entry.get('version')} {_text(entry, 'kind')}, {_text(entry, 'state')}"
    yield f"  at      {_text(entry, 'endpoint')}"
    yield f"  says    {_text(entry, 'text')}"
    yield f"  told    {_told(entry)}"
    yield f"  effect  {_effect(entry)}"
    for at, what in _history(entry):
        yield f"  {at[:19]}  {what}"


def approved_lines(entry: Mapping[str, Any]) -> Iterable[str]:
    """What was approved: the words of that version; and whether there is a newer one, which was not."""
    approved, latest = entry.get("approved"), entry.get("version")
    for each in entry.get("versions", []):
        if each.get("version") == approved:
            yield f"  v{approved}: {_text(each, 'text')}"
    if latest != approved:
        yield f"  v{latest} is newer; this approval is not for it"


def _history(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(when, what) of versions and decisions, oldest first; versions before decisions of the same time."""
    versions = [
        (_text(each, "at"), f"v{each.get('version')}: {_text(each, 'text')}") for each in entry.get("versions", [])
    ]
    changes = [
        (
            _text(each, "at"),
            f"{_text(each, 'action')} by {_text(each, 'who') or _text(each, 'by')}"
            + (f": {_text(each, 'why')}" if each.get("why") else ""),
        )
        for each in entry.get("changes", [])
    ]
    return sorted([*versions, *changes], key=lambda each: each[0])


def markdown(entries: Iterable[Mapping[str, Any]]) -> str:
    """A document with a section per entry."""
    lines = [MARKDOWN_TITLE, ""]
    for entry in entries:
        lines += [
            f"## {_text(entry, 'playbook_id')}: {_text(entry, 'kind')}, {_text(entry, 'state')}",
            "",
            _fenced(_text(entry, "text")),
            "",
            f"- endpoint: {_code(_text(entry, 'endpoint'))}",
            f"- version {entry.get('version')} of {_text(entry, 'at')}, by {_text(entry, 'author') or 'successes'}",
            f"- effect: {_effect(entry)}",
            "",
        ]
    return "\n".join(lines)


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    calls = str(entry.get("calls") or entry.get("successes") or 0)
    shown = [_text(entry, name) for name in ("playbook_id", "state", "kind", "version")]
    return (*shown, calls, _points(entry), _text(entry, "endpoint"), _text(entry, "text"))


def _effect(entry: Mapping[str, Any]) -> str:
    return effect_words(_measured(entry))


def _points(entry: Mapping[str, Any]) -> str:
    measured = _measured(entry)
    if measured is None or measured.effect is None:
        return "-"
    return f"{100 * measured.effect:+.0f}" if is_known(measured) else "?"


def _measured(entry: Mapping[str, Any]) -> Measured | None:
    return msgspec.convert(entry.get("measured"), Measured | None)


def _told(entry: Mapping[str, Any]) -> str:
    if entry.get("state") == "retired":
        return "to nobody: it is retired"
    if not (entry.get("when") or entry.get("set")) and is_wordless(
        str(entry.get("text", "")), str(entry.get("endpoint", ""))
    ):
        return "to nobody: there is nothing in it that an agent could act on"
    told = (entry.get("told") or {}).get("version")
    if told == entry.get("version"):
        return "to agents"
    wait = "in this version to nobody, until a person approves it"
    return wait if told is None else f"{wait}; agents are told version {told}"


def _text(entry: Mapping[str, Any], name: str) -> str:
    return visible(str(entry.get(name, "")))


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _code(text: str) -> str:
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"{fence}{text}{fence}"
