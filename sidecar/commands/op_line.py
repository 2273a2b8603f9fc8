"""Formats one operation as one line for people."""

from __future__ import annotations

from datetime import datetime, tzinfo

from rich.cells import cell_len

from sidecar.commands.terminal import Terminal, fitted, padded, visible
from sidecar.model import ObservedOp

_ENDPOINT, _ENDPOINT_NARROW, _NARROW = 24, 16, 100  # columns
_SOURCE = 20
_LEAST_TEXT = 24
_SLOW_MS = 1000


def op_line(op: ObservedOp, terminal: Terminal, zone: tzinfo | None = None, *, marks_again: bool = False) -> str:
    """Local time (or *zone*'s), mark, endpoint, duration, input → outcome, source.

    Cut to the terminal's width; without a terminal complete, with the date. *marks_again*: the source of an op that
    amends earlier ones is marked, as those were shown before.
    """
    width = terminal.width
    when = _when(op.timestamp, zone, with_date=width is None)
    duration = _duration(op.duration_ms).rjust(7)
    asked, outcome, source = visible(op.input_summary), visible(_outcome(op)), visible(op.source or "")
    source = f"again, {source}" if marks_again and op.amends else source
    between = " → " if asked and outcome else ""
    if width is None:
        endpoint, filling = visible(op.endpoint).ljust(_ENDPOINT), ""
    else:
        endpoint = padded(visible(op.endpoint), _ENDPOINT if width >= _NARROW else _ENDPOINT_NARROW)
        source = fitted(source, _SOURCE)
        room = width - cell_len(f"{when}  FAIL  {endpoint}  {duration}    {source}")
        if room < _LEAST_TEXT:
            room, source = max(_LEAST_TEXT, room + cell_len(source)), ""
        asked, outcome = _shared(asked, outcome, room)
        filling = " " * (room - cell_len(asked + between + outcome))
    mark = terminal.paint("ok  ", "green") if op.success else terminal.paint("FAIL", "alarm")
    parts = [
        terminal.paint(when, "dim"),
        mark,
        terminal.paint(endpoint, "cyan"),
        terminal.paint(duration, "yellow" if op.duration_ms >= _SLOW_MS else "dim"),
        asked + between + (outcome if op.success else terminal.paint(outcome, "red")) + filling,
        terminal.paint(source, "dim"),
    ]
    return "  ".join(part for part in parts if part)


def _outcome(op: ObservedOp) -> str:
    return op.output_summary if op.success else op.error or op.output_summary


def _shared(asked: str, outcome: str, room: int) -> tuple[str, str]:
    """Both texts cut to *room* columns: the outcome gets what it needs, up to three fifths of them."""
    room -= 3
    needs = cell_len(outcome)
    asked = fitted(asked, max(room - needs, room * 2 // 5))
    return asked, fitted(outcome, room - cell_len(asked))


def _when(timestamp: str, zone: tzinfo | None, *, with_date: bool) -> str:
    try:
        at = datetime.fromisoformat(timestamp).astimezone(zone)
    except (ValueError, OverflowError):
        return visible(timestamp)
    return at.strftime("%Y-%m-%d %H:%M:%S" if with_date else "%H:%M:%S")


def _duration(ms: float) -> str:
    if ms < 9.95:
        return f"{ms:.1f} ms" if ms else "0 ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 99_950:
        return f"{ms / 1000:.1f} s"
    return f"{ms / 1000:.0f} s" if ms < 1e8 else f"{ms / 1000:.0e} s"
