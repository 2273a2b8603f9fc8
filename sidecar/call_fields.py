"""Names of a call's fields and features, where both share one namespace: in rules, entries and advice.

A feature keeps its name, unless that is also an op field's: then it is named `features.<name>`. So is one with the name
of a parameter in a question for advice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeVar

from sidecar.model import Scalar

T = TypeVar("T")
FIELDS: Final = ("source", "role", "city", "state", "event_kind", "staffer_id", "sig_hash", "task_class", "count")
FEATURE: Final = "features."  # prefix of a feature named like a field
FIELD_SET: Final = frozenset(FIELDS)
PARAMETERS: Final = frozenset({"endpoint", "task", "limit", "given"})
"""What a question for advice says besides the call's fields and features, which share its query over HTTP."""
SCENARIO: Final = "scenario:"
"""Prefix of the endpoints of scenarios."""
NOTHING_SAID: Final = "? ?×? in ?, ?"
"""The input summary of a scenario event that gave no details."""


def feature_name(feature: str) -> str:
    """The name of the feature called *feature*."""
    return FEATURE + feature if feature in FIELD_SET else feature


def word(value: Scalar) -> str:
    """*value* as text, as it is counted and compared: true equals `"true"`."""
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def fact_name(name: str) -> str:
    """The canonical form of *name* as a person wrote it: any feature may be prefixed with `features.`."""
    return feature_name(name.removeprefix(FEATURE)) if name.startswith(FEATURE) else name


def asked_name(name: str) -> str:
    """The name by which a question, at any door, can name the feature or field that its caller calls *name*."""
    return FEATURE + name if name in PARAMETERS else name


def facts_of(said: Mapping[str, T]) -> dict[str, T]:
    """A caller's fields and features by canonical name; a field also sets the feature of that name, unless given."""
    return {
        **{FEATURE + name: value for name, value in said.items() if name in FIELD_SET},
        **{fact_name(name): value for name, value in said.items()},
    }


def names_of(said: Iterable[str]) -> frozenset[str]:
    """The canonical names of the names that a caller *said*, as in `facts_of`."""
    return frozenset(facts_of(dict.fromkeys(said)))
