"""The random assignments ("coins") of a task: one for each entry it was eligible for, and one for all together.

Pure. Written by the exposure book.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import msgspec

from sidecar.model_learning import Assignment, Exposure

TOGETHER: Final = "all:"  # prefix of an endpoint, in place of an entry's id: whether the task was shown anything there


class Coin(msgspec.Struct, omit_defaults=True):
    """A unit's random assignment for one entry. *outcome* is None while it is open; *by* is the source of the outcome.

    *by* is `op` (a call, *op_id*; *latest* amended it), `agent` (a report) or `none` (no outcome in time). *epoch* is
    the number of the entry's trial that it belongs to.
    """

    endpoint: str
    exposure_id: str
    at: str
    until: str
    propensity: float
    shown: bool
    outcome: bool | None = None
    by: str = ""
    op_id: str = ""
    latest: str = ""
    during: str | None = None
    epoch: int = 0


class Unit(msgspec.Struct, omit_defaults=True):
    """A task, or an exposure without one: its coins by entry, its latest exposures, whether it read the playbook.

    *exposures* are (exposure id, endpoint), oldest first.
    """

    key: str
    coins: dict[str, Coin] = {}
    exposures: list[tuple[str, str]] = []
    informed: bool = False


def coin_of(exposure: Exposure, each: Assignment, epoch: int) -> Coin:
    """The coin for the assignment *each* in *exposure*."""
    return Coin(
        endpoint=exposure.endpoint,
        exposure_id=exposure.exposure_id,
        at=exposure.at,
        until=exposure.until,
        propensity=each.propensity,
        shown=each.shown,
        during=exposure.during,
        epoch=epoch,
    )


def as_one(endpoint: str, assignments: Sequence[Assignment]) -> Assignment:
    """All *assignments* of a task's first exposure at *endpoint* as one: anything shown, or nothing.

    The coins are independent, so this is a random assignment as well, with a known propensity.
    """
    return Assignment(
        playbook_id=TOGETHER + endpoint,
        version=0,
        propensity=round(1 - prod(1 - each.propensity for each in assignments), 9),
        shown=any(each.shown for each in assignments),
    )
