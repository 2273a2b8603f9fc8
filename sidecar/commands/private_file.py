"""Files that commands write for people: what is in them came from operations, so only their owner may read them."""

from __future__ import annotations

import os
from pathlib import Path


def write_private(path: Path, data: bytes) -> None:
    """Write *data*, with mode 0600 if the file is new; one that is there keeps its mode. Raises OSError."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(data)
