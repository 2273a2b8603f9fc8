"""What is kept of a task's coins: one for each entry that it was eligible for, and one for all of them together.

Pure. Written by the exposure book.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import msgspec

from sidecar.model_learning import Assignment, Exposure

TOGETHER: Final = "all:"  # before an endpoint, in an entry's place: whether the task was shown anything there


class Coin(msgspec.Struct, omit_defaults=True):
    """How a unit's coin fell for one entry. *outcome*: None while it is open; *by* tells who said it.

    *by* is `op` (a call, *op_id*; *latest* amended it), `agent` (a report) or `none` (nobody, in time). *epoch* is the
    entry's trial that it belongs to.
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

    *endpoint* is that of each exposure, in their order.
    """

    key: str
    coins: dict[str, Coin] = {}
    exposures: list[tuple[str, str]] = []
    informed: bool = False


def coin_of(exposure: Exposure, each: Assignment, epoch: int) -> Coin:
    """How *each* fell in *exposure*."""
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

    The coins are independent, so that is as random as each of them, with a probability that is known.
    """
    return Assignment(
        playbook_id=TOGETHER + endpoint,
        version=0,
        propensity=round(1 - prod(1 - each.propensity for each in assignments), 9),
        shown=any(each.shown for each in assignments),
    )
