"""Detects unknown fields of events whose names resemble known ones: `sucess` was meant to be `success`.

Like all unknown fields they are kept in `extra`; the sender gets a hint. Each name is compared only once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.receivers.event_fields import FIELD_SCHEMAS

MAX_HINTS: Final = 20  # per response
_MOST_NAMES = 1000  # names compared in the life of a process
_MOST_NEW = 4  # new names compared per event, 0.2 ms each
_LENGTHS = range(3, 41)  # characters of names that are compared
_ALIKE = 0.85  # difflib's ratio: one letter in five missing, doubled or moved
_KNOWN: Final = {name.replace("_", ""): name for name in FIELD_SCHEMAS}


class FieldHints:
    """Remembers for up to 1000 names which field each resembles; further names are not compared. Thread-safe."""

    def __init__(self) -> None:
        self._meant: dict[str, str | None] = {}

    def of(self, names: Iterable[str], event: Mapping[str, object]) -> tuple[str, ...]:
        """A hint for each of *names* in *event* that resembles a known field which *event* lacks."""
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
    """The known field that *name* resembles, ignoring underscores and capitals."""
    if len(name) not in _LENGTHS:
        return None
    near = difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), _KNOWN, n=1, cutoff=_ALIKE)
    return _KNOWN[near[0]] if near else None
