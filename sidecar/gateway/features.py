"""The scalar inputs of a call: from them it is learnt which inputs fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from sidecar.normalize import MAX_ENTRIES

_DEPTH = 3
_CHARACTERS = 256
_MOST_LOOKED_AT = 1024  # fields of any kind
_MOST_TEXT = 8192  # characters of all values together: what is looked through for credentials


def request_features(body: Any, cut: Callable[[str, int], str]) -> dict[str, Any]:
    """Scalar fields of *body*, nested ones under dotted names; bounded in number and depth, and by *cut* in length."""
    features: dict[str, Any] = {}
    room = _MOST_TEXT
    for name, value in islice(_fields(body, "", _DEPTH), _MOST_LOOKED_AT):
        if isinstance(value, str):
            if room <= 0:
                continue
            value = value[: max(2 * _CHARACTERS, room)]  # noqa: PLW2901 - the rest of it is not looked at
            room -= len(name) + len(value)
            if len(value) > _CHARACTERS:
                value = cut(value, _CHARACTERS)  # noqa: PLW2901 - nearly all are short, and stay as they are
        elif not isinstance(value, bool | int | float):
            continue
        features[name if len(name) <= _CHARACTERS else cut(name, _CHARACTERS)] = value
        if len(features) == MAX_ENTRIES:
            break
    return features


def _fields(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    """All fields of *value*, those with fields of their own followed by these."""
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        name = f"{path}.{key}" if path else str(key)
        yield name, inner
        if depth > 1 and isinstance(inner, dict):
            yield from _fields(inner, name, depth - 1)
