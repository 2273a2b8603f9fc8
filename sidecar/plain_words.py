"""Decides whether a word chosen by a sender is harmless by its form, so that agents may see it unreviewed."""

from __future__ import annotations

import re
from typing import Final

MAX_WORD: Final = 24  # characters
_PLAIN = re.compile(rf"[A-Za-z0-9_.:/+@-]{{1,{MAX_WORD}}}")
_WORDS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")
_MOST_WORDS = 2  # words of three or more letters; more of them could be a sentence


def is_plain(word: str) -> bool:
    """Whether *word* is short, has no spaces or markup, and is not a sentence."""
    return _PLAIN.fullmatch(word) is not None and len(_WORDS.findall(word)) <= _MOST_WORDS
