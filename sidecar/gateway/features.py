"""The scalar inputs of a call: from them it is learnt which inputs fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sidecar.normalize import MAX_ENTRIES

_DEPTH = 3
_CHARACTERS = 256


def request_features(body: Any, cut: Callable[[str, int], str]) -> dict[str, Any]:
    """Scalar fields of *body*, nested ones under dotted names; bounded in number and depth, and by *cut* in length."""
    features: dict[str, Any] = {}
    for name, value in _scalars(body, "", _DEPTH):
        if len(features) == MAX_ENTRIES:
            break
        features[cut(name, _CHARACTERS)] = cut(value, _CHARACTERS) if isinstance(value, str) else value
    return features


def _scalars(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not depth:
        return
    for key, inner in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(inner, str | bool | int | float):
            yield name, inner
        else:
            yield from _scalars(inner, name, depth - 1)
