"""The request bodies of the loads: scenario events about filled and unfilled shifts, the same in every run.

No event has an `event_id`: a repeated one would be acknowledged without being recorded.
"""

from __future__ import annotations

import random
from typing import Any, Literal

import msgspec

BATCH = 100
Kind = Literal["event", "extras", "batch"]

_VARIANTS = 50  # number of different bodies, which a load sends in turn
_FAILURES = 0.1
ROLES = ("welder", "forklift operator", "electrician", "line cook", "registered nurse")
PLACES = (("Toledo", "OH"), ("Nashville", "TN"), ("Chicago", "IL"), ("Fort Wayne", "IN"), ("Milwaukee", "WI"))
ERRORS = ("no candidates within 40 miles", "shard 7 timed out after 5000 ms", "certificate OSHA-30 missing")


def bodies(kind: Kind) -> list[bytes]:
    """JSON bodies of *kind*: one event of 12 fields, one with 4 unknown fields besides, or an array of `BATCH`."""
    dice = random.Random(17)
    if kind == "batch":
        return [msgspec.json.encode([_event(dice) for _ in range(BATCH)]) for _ in range(_VARIANTS // 5)]
    events = [_event(dice) for _ in range(_VARIANTS)]
    if kind == "extras":
        events = [{**event, **_extras(dice)} for event in events]
    return [msgspec.json.encode(event) for event in events]


def _event(dice: random.Random) -> dict[str, Any]:
    city, state = dice.choice(PLACES)
    success = dice.random() >= _FAILURES
    wanted = dice.randint(1, 12)
    outcome = {"output_summary": f"filled {wanted}/{wanted}"} if success else {"error": dice.choice(ERRORS)}
    return {
        "event_kind": dice.choice(("fill", "expansion", "emergency", "recurring")),
        "role": dice.choice(ROLES),
        "city": city,
        "state": state,
        "count": wanted,
        "success": success,
        "duration_ms": dice.randint(20, 4000),
        "source": "scenario",
        "staffer_id": f"st-{dice.randint(1, 40)}",
        "sig_hash": f"{dice.getrandbits(64):016x}",
        "rescue_attempted": not success,
        **outcome,
    }


def _extras(dice: random.Random) -> dict[str, Any]:
    return {
        "shift": dice.choice(("day", "night")),
        "budget_usd": dice.randint(200, 9000) / 4,
        "candidates_seen": dice.randint(0, 300),
        "needs_certificate": dice.random() < 0.5,
    }
