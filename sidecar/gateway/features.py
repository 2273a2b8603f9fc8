"""Extracts the scalar inputs of a call, from which the observer learns which inputs fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from sidecar.normalize import MAX_ENTRIES

_DEPTH = 3
_CHARACTERS = 256
_MOST_VISITED = 1024  # fields of any type
_MOST_TEXT = 8192  # characters of all texts together, as each is searched for credentials


def request_features(body: Any, cut: Callable[[str, int], str]) -> dict[str, Any]:
    """Scalar fields of *body*, nested ones under dotted names. Number and depth are bounded; *cut* shortens texts."""
    features: dict[str, Any] = {}
    room = _MOST_TEXT
    for name, value in islice(_fields(body, "", _DEPTH), _MOST_VISITED):
        if isinstance(value, str):
            if room <= 0:
                continue
            value = value[: max(2 * _CHARACTERS, room)]  # noqa: PLW2901 - the rest is ignored
            room -= len(name) + len(value)
            if len(value) > _CHARACTERS:
                value = cut(value, _CHARACTERS)  # noqa: PLW2901 - nearly all are short and need no cut
        elif not isinstance(value, bool | int | float):
            continue
        features[name if len(name) <= _CHARACTERS else cut(name, _CHARACTERS)] = value
        if len(features) == MAX_ENTRIES:
            break
    return features


def _fields(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield the fields of *value* depth-first: each dict is followed by its own fields."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        name = f"{path}.{key}" if path else str(key)
        yield name, inner
        if depth > 1 and isinstance(inner, dict):
            yield from _fields(inner, name, depth - 1)
