"""Generation and reading of our own ids."""

from __future__ import annotations

from typing import Final

import uuid_utils

_CHARACTERS: Final = 36


def new_id() -> str:
    """A unique id that sorts by creation time (UUID version 7, RFC 9562)."""
    return str(uuid_utils.uuid7())


def made_ms(new: str | None) -> int:
    """The creation time of the id *new*, ms since the Unix epoch; 0 if it is not a UUID version 7."""
    if new is None or len(new) != _CHARACTERS or new[14] != "7":
        return 0
    try:
        return int(new[:8] + new[9:13], 16)
    except ValueError:
        return 0
