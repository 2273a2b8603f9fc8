"""Output for people: no control characters, no lines wider than the terminal, colours only if wanted."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import unicodedata
from collections.abc import Mapping
from typing import TextIO

from rich.cells import cell_len, chop_cells, set_cell_size

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36", "alarm": "1;31"}
_FALLBACK_WIDTH = 80


class Terminal:
    """An output stream; `width` is its number of columns, or None if it is not a terminal (a file, a pipe)."""

    def __init__(self, out: TextIO, env: Mapping[str, str]) -> None:
        self.out = out
        self._is_terminal = out.isatty()
        self.colours = self._is_terminal and not env.get("NO_COLOR") and env.get("TERM") != "dumb"
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")  # an encoding without `→` must not end the program

    @property
    def width(self) -> int | None:
        """The number of columns now, as a window may be resized."""
        if not self._is_terminal:
            return None
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self.out.fileno()).columns or _FALLBACK_WIDTH
        return _FALLBACK_WIDTH

    def paint(self, text: str, colour: str) -> str:
        """*text* in *colour* (a key of `_CODES`), or unchanged if colours are not wanted."""
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if self.colours and text else text

    def write(self, line: str) -> None:
        """Write *line* and a line end; call `flush` when there is a pause."""
        self.out.write(line + "\n")

    def flush(self) -> None:
        """Flush the output. Raises BrokenPipeError if the reader has left, even if nothing was written."""
        self.out.flush()
        if _reader_has_left(self.out):
            raise BrokenPipeError


def _reader_has_left(out: TextIO) -> bool:
    try:
        poll = select.poll()
        poll.register(out.fileno(), 0)
        return any(what & select.POLLERR for _, what in poll.poll(0))
    except (OSError, ValueError):  # not a real file
        return False


def visible(text: str) -> str:
    """*text* on one line; whatever could control a terminal (escapes, line ends, text direction) is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _named(c) for c in text)


def visible_json(text: str) -> str:
    """JSON *text* with the same characters as JSON escapes, so that its value is unchanged."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def fitted(text: str, columns: int) -> str:
    """*text* cut to *columns*, where wide characters count as two; a cut is marked by `…`."""
    if cell_len(text) <= columns:
        return text
    return set_cell_size(text, columns - 1).rstrip() + "…" if columns > 0 else ""


def wrapped(text: str, columns: int | None, indent: int) -> list[str]:
    """*text* in lines of at most *columns*, all but the first indented; None leaves it whole. Long words are broken."""
    if columns is None or cell_len(text) <= columns:
        return [text]
    lines, line, space = [], "", " " * indent
    for word in re.findall(r" *[^ ]+", text):
        if line and cell_len(line + word) > columns:
            lines.append(line)
            line = space + word.lstrip()
        else:
            line += word
        while cell_len(line) > columns > indent + 1:
            first = chop_cells(line, columns)[0]
            lines.append(first)
            line = space + line[len(first) :]
    return [*lines, line]


def padded(text: str, columns: int) -> str:
    """*text* cut or filled to exactly *columns*."""
    return set_cell_size(fitted(text, columns), columns)


def _named(char: str) -> str:
    return " " if unicodedata.category(char) == "Zs" else ascii(char)[1:-1]
