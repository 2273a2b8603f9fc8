"""How fields and inputs of a call are named, and told as text, where both stand together: in rules, entries and advice.

An input (feature) has its own name, but for one that is called like a field of the op: that is `features.<name>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from sidecar.model import Scalar

T = TypeVar("T")
FIELDS: Final = ("source", "role", "city", "state", "event_kind", "staffer_id", "sig_hash", "task_class", "count")
FEATURE: Final = "features."  # before the name of a feature that is called like one of them
FIELD_SET: Final = frozenset(FIELDS)
NOTHING_SAID: Final = "? ?×? in ?, ?"
"""The input summary of a scenario's event that says nothing of what it was about."""


def feature_name(feature: str) -> str:
    """The name of an input that is called *feature*."""
    return FEATURE + feature if feature in FIELD_SET else feature


def word(value: Scalar) -> str:
    """*value* as text, as it is counted and compared: true and `"true"` are one."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def fact_name(name: str) -> str:
    """What *name* stands for, as somebody wrote it: `features.` may stand before any input."""
    return feature_name(name.removeprefix(FEATURE)) if name.startswith(FEATURE) else name


def facts_of(said: Mapping[str, T]) -> dict[str, T]:
    """What a caller *said* of its call: a field's name stands for the input of that name too, unless it said both."""
    return {
        **{FEATURE + name: value for name, value in said.items() if name in FIELD_SET},
        **{fact_name(name): value for name, value in said.items()},
    }


def names_of(said: Iterable[str]) -> frozenset[str]:
    """The names that a caller *said*, likewise."""
    return frozenset(facts_of(dict.fromkeys(said)))
