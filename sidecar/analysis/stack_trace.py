"""Reduces a stack trace to the error and where it was raised. Pure, bounded.

Python prints the error last, Node.js and the JVM first; the frames between vary with the caller, not with the cause.
"""

from __future__ import annotations

import re
from typing import Final

_MOST: Final = 20_000  # characters read, from the start or from the end
_PYTHON: Final = "Traceback (most recent call last):"
_PYTHON_FRAME = re.compile(r'^  File "[^"\n]*", line \d+, in (\S+)', re.MULTILINE)
_FRAME = re.compile(r"^\s+at (?:async )?(?:new )?([\w$.<>]+)?[^\n]*", re.MULTILINE)
_GO: Final = "\ngoroutine "


def without_frames(text: str) -> str:
    """*text* unchanged, or for a stack trace the error and `(in function)`."""
    if "\n" not in text:
        return text
    if _PYTHON in text:
        return _python(text[-_MOST:])
    if "\n\tat " in text or "\n    at " in text:
        return _first_line_first(text[:_MOST])
    head, found, _ = text.partition(_GO)
    return head if found else text


def _python(text: str) -> str:
    """The last exception's own lines, and the function of the innermost frame."""
    frames = list(_PYTHON_FRAME.finditer(text))
    if not frames:
        return text
    lines = text[frames[-1].end() :].split("\n")[1:]
    start = next((number for number, line in enumerate(lines) if line and not line[0].isspace()), None)
    if start is None:
        return text
    return f"{_joined(lines[start:])} (in {frames[-1][1]})"


def _first_line_first(text: str) -> str:
    """The text before the first frame, and that frame's function."""
    frame = _FRAME.search(text)
    if frame is None or frame.start() == 0:
        return text
    head = text[: frame.start()].rstrip()
    function = frame[1]
    return f"{head} (in {function})" if function and "." not in function[-4:] else head


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).strip()
