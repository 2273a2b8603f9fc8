"""Checks whether a model's answer can be shown to people: rejects loops, refusals and nonsense. Pure, bounded."""

from __future__ import annotations

import re
from typing import Final

_SHINGLE = 24  # characters
_LEAST_LENGTH = 60  # a shorter text may repeat itself on purpose
_TAILS = (400, 1200, 4000)  # characters from the end: a loop runs to the end of the answer
_LEAST_DISTINCT = 0.35
_HEAD = 200  # characters; a refusal is recognised within them
_LEAST_LETTERS: Final = 8
_LEAST_SHARE: Final = 0.5  # least share of letters and spaces
_MOST_WORD: Final = 80  # letters
_REFUSAL = re.compile(
    r"\bI(?:['\u2019]?m| am) (?:sorry|unable|not able)\b|(?:^|\bI )apologi[sz]e\b"
    r"|\bas an? (?:AI|(?:large )?language model)\b"
    r"|\bI (?:can(?:['\u2019]?t|not| not)|won['\u2019]?t|will not|must decline)(?: \w+){0,2} "
    r"(?:help|assist|answer|provide|comply|analy[sz]e|do|fulfil|discuss|respond|engage)",
    re.IGNORECASE,
)


def why_unusable(text: str) -> str | None:
    """The reason why *text* cannot be used as an explanation, or None if no defect is found."""
    if not text.strip():
        return "it is empty"
    if is_runaway(text):
        return "it repeats itself"
    if _REFUSAL.search(text[:_HEAD]):
        return "it is a refusal"
    if _is_nonsense(text):
        return "it is no text"
    return None


def is_runaway(text: str) -> bool:
    """Whether *text* ends in a loop: few of its 24-character windows are distinct. Reads the last 4000 at most."""
    text = text.strip()
    return len(text) >= _LEAST_LENGTH and any(_repeats(text[-size:]) for size in _TAILS)


def _repeats(text: str) -> bool:
    windows = len(text) - _SHINGLE + 1
    distinct = {text[at : at + _SHINGLE] for at in range(windows)}
    return len(distinct) < _LEAST_DISTINCT * windows


def _is_nonsense(text: str) -> bool:
    """Whether *text* has hardly any letters (of any script), or is ASCII with one endless word."""
    letters = sum(each.isalpha() or not each.isascii() for each in text)
    if letters < _LEAST_LETTERS or letters + text.count(" ") < _LEAST_SHARE * len(text):
        return True
    return text.isascii() and max(map(len, text.split())) > max(_MOST_WORD, len(text) // 2)
