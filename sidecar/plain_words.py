"""Whether a word that a sender chose is harmless by its form: agents may be told it without a person's reading it."""

from __future__ import annotations

import re
from typing import Final

MAX_WORD: Final = 24  # characters
_PLAIN = re.compile(rf"[A-Za-z0-9_.:/+@-]{{1,{MAX_WORD}}}")
_WORDS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")
_MOST_WORDS = 2  # of three letters and more: more could be a sentence


def is_plain(word: str) -> bool:
    """Whether *word* is short, without spaces and markup, and no sentence."""
    return _PLAIN.fullmatch(word) is not None and len(_WORDS.findall(word)) <= _MOST_WORDS
