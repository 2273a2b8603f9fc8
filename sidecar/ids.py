"""Generation and reading of our own ids."""

from __future__ import annotations

import uuid_utils


def new_id() -> str:
    """A unique id that sorts by creation time (UUID version 7, RFC 9562)."""
    return str(uuid_utils.uuid7())


def made_ms(new: str | None) -> int:
    """The creation time of the id *new*, ms since the Unix epoch; 0 if it is not a UUID version 7."""
    try:
        return int(new[:8] + new[9:13], 16) if new is not None and new[14:15] == "7" else 0
    except ValueError:
        return 0
