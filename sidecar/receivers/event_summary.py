"""What went in, of an event that does not say: of a scenario's event in the words that it always had, else of the call.

Pure. A call at an endpoint of its own, of which no field of a scenario is known, is told by its endpoint and features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.call_fields import word

SCENARIO: Final = "scenario:"  # the endpoints of scenarios begin with this
MAX_TOLD: Final = 200  # characters of features
_MAX_VALUE = 60
_SCENARIO_FIELDS = ("event_kind", "role", "count", "city", "state")


def is_plain_call(fields: Mapping[str, Any]) -> bool:
    """Whether *fields* are of a call at an endpoint of its own, and not of a scenario."""
    endpoint = fields["endpoint"]
    return bool(endpoint) and not endpoint.startswith(SCENARIO) and fields.keys().isdisjoint(_SCENARIO_FIELDS)


def scenario_summary(fields: Mapping[str, Any]) -> str:
    """What went in: `fill welder×3 in Reno, NV`."""
    said = fields.get
    return (
        f"{said('event_kind', '?')} {said('role', '?')}×{_digits(said('count', '?'))}"
        f" in {said('city', '?')}, {said('state', '?')}"
    )


def call_summary(fields: Mapping[str, Any]) -> str:
    """What went in: `/tools/refund age_days=41 vip=true`. Features come cleaned."""
    given = sorted((fields.get("features") or {}).items())  # a repeated event may have them in another order
    told = " ".join(f"{name}={_short(value)}" for name, value in given)
    return f"{fields['endpoint']} {told[:MAX_TOLD]}".rstrip()


def _short(value: Any) -> str:
    return " ".join(word(value).split())[:_MAX_VALUE]


def _digits(number: Any) -> str:
    """A number as JavaScript writes it: 3.0 is `3`."""
    return str(int(number)) if isinstance(number, float) and number.is_integer() else str(number)
