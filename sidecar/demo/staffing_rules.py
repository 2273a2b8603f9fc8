"""The rules of the demo's staffing gateway: which calls it refuses, with which message, and how long calls take.

Pure except for the random source, which is injected. Messages contain ids, names and numbers, as those of real
services.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Annotated, Final, NamedTuple

import msgspec

ROLES: Final = ("forklift operator", "picker", "packer", "welder", "line cook")
CHANNELS: Final = ("app", "email", "sms")
"""How workers hear of their shift. Nobody told the agents that the relay for text messages is broken."""

UNKNOWN_ROLES: Final = ("drone pilot", "AI whisperer")
"""What agents ask for although nobody ever had that role."""

_NAMES: Final = ("amy_chen", "omar_diaz", "li_novak", "sara_okafor", "ivan_petrov", "june_park")
_BUSY: Final = 0.35  # share of the slow shard's calls that time out
_SMS_LOST: Final = 0.85  # share of text messages that the relay loses
_GIVES_UP_S: Final = 0.8
_HANGS_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class City:
    """A place where workers are wanted."""

    name: str
    state: str
    is_closed: bool = False
    is_slow: bool = False
    needs_certificate: bool = False


CITIES: Final = (
    City("Phoenix", "AZ"),
    City("Tucson", "AZ"),
    City("Denver", "CO"),
    City("Salt Lake City", "UT"),
    City("Reno", "NV", needs_certificate=True),
    City("Las Vegas", "NV", needs_certificate=True),
    City("Sacramento", "CA", needs_certificate=True),
    City("Boise", "ID", is_closed=True),
    City("Austin", "TX", is_slow=True),
)
_BY_NAME: Final = {city.name: city for city in CITIES}


class StaffingCall(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every tool call; fields that a tool does not need may be omitted."""

    role: Annotated[str, msgspec.Meta(max_length=100)]
    city: Annotated[str, msgspec.Meta(max_length=100)]
    state: Annotated[str, msgspec.Meta(max_length=100)] = ""
    count: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    certified: bool = False
    channel: Annotated[str, msgspec.Meta(max_length=100)] = ""
    question: Annotated[str, msgspec.Meta(max_length=1000)] = ""


class Refusal(NamedTuple):
    """A failed call: its HTTP status (which may be 200) and the `error` of the response."""

    status: int
    error: str


class Pace(NamedTuple):
    """A call's duration in seconds, and whether its shard gives up at the end of it."""

    wait_s: float
    gives_up: bool = False


def pace(call: StaffingCall, dice: Random) -> Pace:
    """The pace of a call. The slow city's shard is slow, and sometimes fails late: it says so or hangs."""
    city = _BY_NAME.get(call.city)
    if city is None or not city.is_slow:
        return Pace(dice.uniform(0.002, 0.03))
    if dice.random() >= _BUSY:
        return Pace(dice.uniform(0.15, 0.5))
    return Pace(_GIVES_UP_S, gives_up=True) if dice.random() < 0.5 else Pace(_HANGS_S, gives_up=True)


def shard_refusal(call: StaffingCall, dice: Random) -> Refusal:
    """The slow shard's message when it gives up."""
    shard = f"{call.state.lower() or 'xx'}-{dice.randrange(1, 4)}"
    return Refusal(504, f"shard '{shard}' gave no answer in 800 ms (request {dice.getrandbits(64):016x})")


def role_refusal(call: StaffingCall, dice: Random) -> Refusal | None:
    """Refuses unknown roles, at every tool."""
    if call.role in ROLES:
        return None
    return Refusal(422, f"no such role: '{call.role}' (request {dice.getrandbits(64):016x})")


def city_refusal(call: StaffingCall, dice: Random) -> Refusal | None:
    """Refuses unknown and closed cities; for closed ones with status 200."""
    city = _BY_NAME.get(call.city)
    if city is None:
        return Refusal(404, f"no office in '{call.city}'")
    if city.is_closed:
        return Refusal(200, f"{city.name} office is closed until 2027-01-15 (notice NTC-{dice.randrange(100, 999)})")
    return None


def certificate_refusal(call: StaffingCall, dice: Random) -> Refusal | None:
    """Refuses uncertified workers in states that require a certificate."""
    city = _BY_NAME.get(call.city)
    if city is None or not city.needs_certificate or call.certified:
        return None
    worker = f"{dice.choice(_NAMES)}_{dice.randrange(1000, 9999)}"
    return Refusal(403, f"worker {worker} holds no {city.state} certificate (policy CRT-{dice.randrange(1000, 9999)})")


def channel_refusal(call: StaffingCall, dice: Random) -> Refusal | None:
    """Refuses most text messages, as the relay for them is broken."""
    if call.channel != "sms" or dice.random() >= _SMS_LOST:
        return None
    return Refusal(502, f"sms relay did not take the notice (message {dice.getrandbits(48):012x})")


def capacity_refusal(call: StaffingCall, shift_id: str, capacity: int) -> Refusal | None:
    """Refuses more workers than the shift has places for, with status 200."""
    if call.count <= capacity:
        return None
    return Refusal(200, f"{call.count} workers asked for, shift {shift_id} has room for {capacity}")
