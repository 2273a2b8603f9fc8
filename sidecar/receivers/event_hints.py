"""Fields of events that nobody knows, but whose names resemble a known one: `sucess` was meant to be `success`.

They are kept in `extra` as all unknown fields are; the sender is told. Each name is compared once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.receivers.event_fields import FIELD_SCHEMAS

MAX_HINTS: Final = 20  # of one answer
_MOST_NAMES = 1000  # compared in the life of a process, and
_MOST_NEW = 4  # of one event: 0.2 ms each
_LENGTHS = range(3, 41)  # characters of a name that is compared
_ALIKE = 0.85  # of difflib's ratio: one letter of five missing, doubled or in another place
_KNOWN: Final = {name.replace("_", ""): name for name in FIELD_SCHEMAS}


class FieldHints:
    """Remembers of 1000 names which field they resemble, if any; later ones are not compared. Any thread may ask."""

    def __init__(self) -> None:
        self._meant: dict[str, str | None] = {}

    def of(self, names: Iterable[str], event: Mapping[str, object]) -> tuple[str, ...]:
        """A hint for each of *names* that is a field of *event* and resembles one that *event* does not have."""
        meant, new = self._meant, 0
        found: list[str] = []
        for name in names:
            if name in meant:
                known = meant[name]
            elif new < _MOST_NEW and len(meant) < _MOST_NAMES:
                new += 1
                known = meant[name] = _resembled(name)
            else:
                continue
            if known is not None and name in event and known not in event:
                found.append(f"'{name}' is kept as an extra field; did you mean '{known}'?")
        return tuple(found[:MAX_HINTS])


def _resembled(name: str) -> str | None:
    """The known field that *name* resembles, spelled with or without underscores and capitals."""
    if len(name) not in _LENGTHS:
        return None
    near = difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), _KNOWN, n=1, cutoff=_ALIKE)
    return _KNOWN[near[0]] if near else None
