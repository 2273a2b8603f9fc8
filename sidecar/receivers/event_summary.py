"""Makes the input summary of an event without one: for scenarios the established wording, else a call's inputs.

Pure. An event counts as a call if its endpoint is not a scenario's and it has none of the scenario fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.call_fields import SCENARIO, word

MAX_TOLD: Final = 200  # characters of features
_MAX_VALUE = 60
_SCENARIO_FIELDS = ("event_kind", "role", "count", "city", "state")


def is_plain_call(fields: Mapping[str, Any]) -> bool:
    """Whether *fields* describe a call at its own endpoint, rather than a scenario."""
    endpoint = fields["endpoint"]
    return bool(endpoint) and not endpoint.startswith(SCENARIO) and not is_scenario(fields)


def is_scenario(fields: Mapping[str, Any]) -> bool:
    """Whether *fields* say what a scenario was, whatever the endpoint."""
    return not fields.keys().isdisjoint(_SCENARIO_FIELDS)


def scenario_summary(fields: Mapping[str, Any]) -> str:
    """The input summary of a scenario: `fill welder×3 in Reno, NV`."""
    said = fields.get
    return (
        f"{said('event_kind', '?')} {said('role', '?')}×{_digits(said('count', '?'))}"
        f" in {said('city', '?')}, {said('state', '?')}"
    )


def call_summary(fields: Mapping[str, Any]) -> str:
    """The input summary of a call: `/tools/refund age_days=41 vip=true`. Features must be cleaned."""
    given = sorted((fields.get("features") or {}).items())  # sorted, because a repeated event may have another order
    told = " ".join(f"{name}={_short(value)}" for name, value in given)
    return f"{fields['endpoint']} {told[:MAX_TOLD]}".rstrip()


def _short(value: Any) -> str:
    return " ".join(word(value).split())[:_MAX_VALUE]


def _digits(number: Any) -> str:
    """A number as JavaScript writes it: 3.0 is `3`."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)
