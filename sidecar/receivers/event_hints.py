"""Detects what a sender may have meant otherwise: unknown fields like known ones (`sucess`, `ok`), no `success` at all.

Such fields are kept in `extra` like all unknown ones; the sender gets a hint. Each name is compared only once.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable, Mapping
from typing import Final

from sidecar.receivers.event_fields import FIELD_SCHEMAS
from sidecar.receivers.event_summary import is_plain_call, is_scenario

MAX_HINTS: Final = 20  # per response
_MOST_NAMES = 1000  # names compared in the life of a process
_MOST_NEW = 4  # new names compared per event, 0.2 ms each
_LENGTHS = range(3, 41)  # characters of names that are compared
_ALIKE = 0.85  # difflib's ratio: one letter in five missing, doubled or moved
_KNOWN: Final = {name.replace("_", ""): name for name in FIELD_SCHEMAS}
_OTHER_WORDS: Final = {
    **dict.fromkeys(("tool", "toolname"), "endpoint"),
    **dict.fromkeys(("taskid", "sessionid"), "task"),
    **dict.fromkeys(("ok", "succeeded", "issuccess"), "success"),
    **dict.fromkeys(("latency", "latencyms", "duration", "elapsedms"), "duration_ms"),
    **dict.fromkeys(("err", "errormessage"), "error"),
    "errorcode": "error_type",
    **dict.fromkeys(("feature", "inputs", "args"), "features"),
    **dict.fromkeys(("ts", "time"), "timestamp"),
}
"""Names, without underscores and capitals, that other programs give to our fields."""
NO_SUCCESS: Final = "no success given: it counts as a failure"
ERROR_OF_SUCCESS: Final = "error is given, but success is true: it counts as a success"
NO_CALL: Final = "neither endpoint nor success given: it counts as a failed scenario:fill"
NO_ENDPOINT: Final = "endpoint is empty: name what was called, or leave it out"


class FieldHints:
    """Remembers for up to 1000 names which field each resembles; further names are counted only. Thread-safe.

    *not_compared*: fields of events whose name was new where no more could be compared, so they may lack a hint.
    """

    def __init__(self) -> None:
        self._meant: dict[str, str | None] = {}
        self._counting = threading.Lock()
        self.not_compared = 0

    def of(self, names: Iterable[str], event: Mapping[str, object]) -> tuple[str, ...]:
        """A hint for each of *names* in *event* that resembles a known field which *event* lacks."""
        meant, new, skipped = self._meant, 0, 0
        found: list[str] = []
        for name in names:
            if name in meant:
                known = meant[name]
            elif new < _MOST_NEW and len(meant) < _MOST_NAMES:
                new += 1
                known = meant[name] = _resembled(name)
            else:
                skipped += name in event  # what was put into `extra` needs no hint
                continue
            if known is not None and name in event and known not in event:
                found.append(f"'{name}' is kept as an extra field; did you mean '{known}'?")
        if skipped:
            with self._counting:
                self.not_compared += skipped
        return tuple(found[:MAX_HINTS])


def with_outcome_hint(hints: tuple[str, ...], event: Mapping[str, object]) -> tuple[str, ...]:
    """*hints* for an *event* without `success`, and as what it counts, unless that is clear.

    It is for one with an `error`, for a scenario, a correction and `{}`, and where a hint names `success` already.
    """
    given = {name: value for name, value in event.items() if value is not None}
    if not given or not given.keys().isdisjoint(("success", "error", "correction")):
        return hints
    if "endpoint" in given:
        counts_as = NO_SUCCESS if is_plain_call(given) else ""
    else:
        counts_as = "" if is_scenario(given) else NO_CALL
    if not counts_as or any(hint.endswith("'success'?") for hint in hints):
        return hints
    return (*hints[: MAX_HINTS - 1], counts_as)


def _resembled(name: str) -> str | None:
    """The known field that *name* is another word for or resembles, ignoring underscores and capitals."""
    if len(name) > max(_LENGTHS):
        return None
    plain = name.lower().replace("_", "").replace("-", "")
    if plain in _OTHER_WORDS or len(name) not in _LENGTHS:
        return _OTHER_WORDS.get(plain)
    near = difflib.get_close_matches(plain, _KNOWN, n=1, cutoff=_ALIKE)
    return _KNOWN[near[0]] if near else None
