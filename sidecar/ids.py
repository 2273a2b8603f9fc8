"""Ids of our own making."""

from __future__ import annotations

import uuid_utils


def new_id() -> str:
    """A unique id that sorts by the time it was made (UUID version 7, RFC 9562)."""
    return str(uuid_utils.uuid7())
