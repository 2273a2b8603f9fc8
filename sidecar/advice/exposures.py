"""Exposures and what came of them: whose coins fell how, and whether the first call after that succeeded.

Follows from ops and decisions in their order. The unit is the task (or, where it has no name, the exposure): a task
has one coin for an entry, and one outcome, that of its first call at the entry's endpoint afterwards, in time. Counted
as assigned, whatever the agent did with the advice. An outcome that an agent reported is counted apart, until a call
of its own takes its place; an op that amends such a call changes what was counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

import msgspec
import structlog

from sidecar.advice.tallies import Tally, Trial
from sidecar.kept_rows import KeptRows
from sidecar.model import ObservedOp
from sidecar.model_learning import Assignment, Exposure, InformedTask, ReportedOutcome

log = structlog.get_logger(__name__)

MAX_UNITS: Final = 5000
MAX_TALLIES: Final = 1000
MAX_COINS: Final = 64  # of a unit
MAX_EXPOSURES: Final = 16  # of a unit, whose ids are still known
_OVERDUE_A_STEP = 200


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


class ExposureBook:
    """At most 5000 units and 1000 tallies; the least recent goes out, its open coins as missing. For one thread."""

    def __init__(self) -> None:
        self._units = KeptRows("unit/", Unit, MAX_UNITS)
        self._tallies = KeptRows("tally/", Tally, MAX_TALLIES)
        self._exposures: dict[str, tuple[str, str]] = {}  # exposure id → its unit and endpoint
        self._calls: dict[str, str] = {}  # op id of an outcome → unit
        self._open: OrderedDict[tuple[str, str], str] = OrderedDict()  # (unit, entry) → until, by time
        self.not_counted = 0  # ops that could not be taken in
        self.unknown_reports = 0  # reports on exposures that are not, or no longer, known

    def __len__(self) -> int:
        return len(self._units)

    @property
    def open(self) -> int:
        """Coins whose outcome is awaited."""
        return len(self._open)

    @property
    def evicted(self) -> int:
        """Units and tallies that had to make room."""
        return self._units.evicted + self._tallies.evicted

    def consume(self, op: ObservedOp) -> bool:
        """Take one settled op in; whether its agent had been shown advice on this endpoint. O(the unit's coins)."""
        try:
            return self._consume(op)
        except Exception:  # a poison op costs itself
            self.not_counted += 1
            log.exception("exposures.op_not_counted", failures=self.not_counted)
            return op.exposure_id is not None

    def expose(self, exposure: Exposure, outdated: Collection[str] = ()) -> None:
        """An exposure is in the journal: its coins are known, those of entries that had none are open.

        *outdated* are entries that were another treatment when it was offered: it is no part of their trial of now.
        """
        unit = self._touched(exposure.task or exposure.exposure_id)
        unit.exposures.append((exposure.exposure_id, exposure.endpoint))
        self._exposures[exposure.exposure_id] = (unit.key, exposure.endpoint)
        if len(unit.exposures) > MAX_EXPOSURES:
            self._exposures.pop(unit.exposures.pop(0)[0], None)
        for each in exposure.assignments:
            if each.playbook_id not in unit.coins and len(unit.coins) < MAX_COINS:
                self._assign(unit, exposure, each, outdated=each.playbook_id in outdated)

    def report(self, reported: ReportedOutcome) -> None:
        """An agent's word on an exposure is in the journal."""
        key, endpoint = self._exposures.get(reported.exposure_id, ("", ""))
        unit = self._units.touch(key)
        if unit is None:
            self.unknown_reports += 1
            return
        for entry_id, coin in unit.coins.items():
            if not coin.by and coin.endpoint == endpoint and reported.at <= coin.until:
                self._settle(unit, entry_id, coin, reported.success, by="agent")

    def inform(self, informed: InformedTask) -> None:
        """A task read the playbook by itself."""
        unit = self._touched(informed.task)
        if not unit.informed:
            unit.informed = True
            for entry_id, coin in unit.coins.items():
                self._trial(entry_id, coin).informed[coin.shown] += 1

    def close_overdue(self, now: str) -> Iterator[None]:
        """Count the coins as missing whose time is over at *now* (RFC 3339); a little at each step."""
        done = 0
        while self._open:
            (key, entry_id), until = next(iter(self._open.items()))
            if until >= now:
                return
            unit = self._units.get(key)
            if unit is None:
                del self._open[key, entry_id]
                continue
            self._miss(unit, entry_id)
            self._units.changed(key)
            done += 1
            if not done % _OVERDUE_A_STEP:
                yield

    def coins(self, key: str) -> Mapping[str, Coin]:
        """The coins of the unit *key*, by entry."""
        unit = self._units.get(key)
        return unit.coins if unit is not None else {}

    def knows(self, exposure_id: str) -> bool:
        """Whether an outcome of *exposure_id* could still be counted."""
        return exposure_id in self._exposures

    def tally(self, entry_id: str) -> Tally | None:
        """What is known of an entry."""
        return self._tallies.get(entry_id)

    def tallies(self) -> list[Tally]:
        """All of them."""
        return self._tallies.rows()

    def begin_anew(self, entry_id: str) -> None:
        """The entry is another treatment from now on, or gets another trial: what was measured is kept apart."""
        tally = self._tallies.get(entry_id)
        if tally is not None:
            tally.begin_anew()
            self._tallies.changed(entry_id)

    @property
    def unusable(self) -> int:
        """Saved rows that could not be read, and rows that could not be saved."""
        return self._units.unusable + self._tallies.unusable

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore what `take_dirty` gave, in whatever order."""
        self._units.load(rows)
        self._tallies.load(rows)
        found: list[tuple[str, str, str]] = []
        for unit in self._units.rows():
            self._exposures |= {exposure_id: (unit.key, endpoint) for exposure_id, endpoint in unit.exposures}
            for coin in unit.coins.values():
                self._calls |= {op_id: unit.key for op_id in (coin.op_id, coin.latest) if op_id}
            found += [(coin.until, unit.key, name) for name, coin in unit.coins.items() if not coin.by]
        self._open = OrderedDict(((key, name), until) for until, key, name in sorted(found))

    def prepare(self) -> Iterator[None]:
        """Do most of `take_dirty`'s work ahead of it, a little at each step."""
        yield from self._units.prepare()
        yield from self._tallies.prepare()

    def take_dirty(self) -> dict[str, bytes]:
        """Rows changed since the last call, as JSON by key; removed ones as b""."""
        return self._units.take_dirty() | self._tallies.take_dirty()

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving *keys* failed: `take_dirty` gives them again."""
        names = list(keys)
        self._units.put_back(names)
        self._tallies.put_back(names)

    def _consume(self, op: ObservedOp) -> bool:
        if op.amends and self._amend(op):
            return op.exposure_id is not None
        named = self._exposures.get(op.exposure_id) if op.exposure_id is not None else None
        key = named[0] if named is not None else op.task
        unit = self._units.get(key) if key else None
        if unit is None:
            return op.exposure_id is not None
        shown = False
        for entry_id, coin in unit.coins.items():
            if coin.endpoint != op.endpoint:
                continue
            if coin.during is not None and op.span_id == coin.during:
                continue  # it was under way when its agent was told
            shown = shown or coin.shown
            is_after = named is not None or op.timestamp >= coin.at
            if coin.by in ("", "agent") and is_after and op.timestamp <= coin.until:
                self._units.touch(unit.key)
                self._settle(unit, entry_id, coin, op.success, by="op", op_id=op.op_id or "")
        return shown

    def _amend(self, op: ObservedOp) -> bool:
        """Count what *op* says of an outcome, if it amends one; whether it does."""
        amended = False
        for op_id in (op.amends or "").split(" "):
            unit = self._units.touch(self._calls.get(op_id, ""))
            for entry_id, coin in unit.coins.items() if unit is not None else ():
                if coin.by == "op" and op_id in (coin.op_id, coin.latest):
                    amended = True
                    if coin.outcome != op.success:
                        self._trial(entry_id, coin).amend(coin.propensity, coin.shown, success=op.success)
                    self._calls.pop(coin.latest, None)
                    coin.outcome, coin.latest = op.success, op.op_id or ""
                    self._calls[coin.latest] = self._calls[coin.op_id]
        return amended

    def _touched(self, key: str) -> Unit:
        unit = self._units.touch(key)
        if unit is None:
            gone = self._units.evict()
            if gone is not None:
                self._forget(gone)
            unit = Unit(key)
            self._units.add(key, unit)
        return unit

    def _forget(self, unit: Unit) -> None:
        for entry_id, coin in unit.coins.items():
            if not coin.by:
                self._miss(unit, entry_id)
            self._calls.pop(coin.op_id, None)
            self._calls.pop(coin.latest, None)
        for exposure_id, _ in unit.exposures:
            self._exposures.pop(exposure_id, None)

    def _assign(self, unit: Unit, exposure: Exposure, each: Assignment, *, outdated: bool) -> None:
        coin = unit.coins[each.playbook_id] = Coin(
            endpoint=exposure.endpoint,
            exposure_id=exposure.exposure_id,
            at=exposure.at,
            until=exposure.until,
            propensity=each.propensity,
            shown=each.shown,
            during=exposure.during,
            epoch=self._tally(each.playbook_id).epoch - outdated,
        )
        self._open[unit.key, each.playbook_id] = exposure.until
        trial = self._trial(each.playbook_id, coin)
        trial.assigned[each.shown] += 1
        if unit.informed:
            trial.informed[each.shown] += 1

    def _settle(self, unit: Unit, entry_id: str, coin: Coin, success: bool, *, by: str, op_id: str = "") -> None:
        trial = self._trial(entry_id, coin)
        if coin.by == "agent":
            trial.withdraw_report(coin.propensity, coin.shown, success=bool(coin.outcome))
        coin.outcome, coin.by, coin.op_id = success, by, op_id
        if op_id:
            self._calls[op_id] = unit.key
        trial.count(coin.propensity, coin.shown, success=success, reported=by == "agent")
        self._open.pop((unit.key, entry_id), None)

    def _miss(self, unit: Unit, entry_id: str) -> None:
        coin = unit.coins[entry_id]
        coin.by = "none"
        self._trial(entry_id, coin).missing[coin.shown] += 1
        self._open.pop((unit.key, entry_id), None)

    def _trial(self, entry_id: str, coin: Coin) -> Trial:
        return self._tally(entry_id).trial(coin.epoch)

    def _tally(self, entry_id: str) -> Tally:
        tally = self._tallies.get(entry_id)
        if tally is None:
            tally = Tally(entry_id)
            self._tallies.add(entry_id, tally)
        else:
            self._tallies.changed(entry_id)
        return tally
