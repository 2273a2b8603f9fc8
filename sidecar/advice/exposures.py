"""Exposures and outcomes: how each unit was assigned, and whether its first call afterwards succeeded.

Derived from ops and decisions in their order. The unit of assignment is the task (or, if it has no name, the exposure).
A task has one coin per entry, and one outcome: that of its first call at the entry's endpoint afterwards, in time.
"Afterwards" is by the call's own timestamp, unless it came right after that: then it is by when it came.
Outcomes are counted as assigned (intention to treat), whatever the agent did with the advice. An outcome reported by an
agent is counted separately until a call of its own replaces it; an op that amends such a call changes the counts.

A task with several entries has the same outcome for each of them. So the joint effect of all advice is counted per task
in a tally of its own for each endpoint: by whether the task's first exposure there showed anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import structlog

from sidecar.advice.coins import TOGETHER, Coin, Unit, as_one, coin_of
from sidecar.advice.tallies import Tally, Trial
from sidecar.clock import rfc3339_ms
from sidecar.ids import made_ms
from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model import ObservedOp, amended_ids
from sidecar.model_learning import Assignment, Exposure, InformedTask, ReportedOutcome

log = structlog.get_logger(__name__)

MAX_UNITS: Final = 5000
MAX_TALLIES: Final = 1000
MAX_COINS: Final = 64  # per unit
MAX_EXPOSURES: Final = 16  # per unit; the ids of earlier ones are forgotten
_OVERDUE_A_STEP = 200
_RIGHT_AFTER_MS = 2000  # a timestamp of whole seconds may be one early; another second for the sender's clock


class ExposureBook(KeptBook):
    """Keeps at most 5000 units and 1000 tallies; evicts the least recent, its open coins as missing. For one thread."""

    def __init__(self) -> None:
        self._units = KeptRows("unit/", Unit, MAX_UNITS)
        self._tallies = KeptRows("tally/", Tally, MAX_TALLIES)
        self._by_endpoint = KeptRows("together/", Tally, MAX_TALLIES)
        super().__init__(self._units, self._tallies, self._by_endpoint)
        self._exposures: dict[str, tuple[str, str]] = {}  # exposure id → its unit and endpoint
        self._calls: dict[str, str] = {}  # op id of an outcome → unit
        self._open: OrderedDict[tuple[str, str], str] = OrderedDict()  # (unit, entry) → until, by time
        self._open_together: OrderedDict[tuple[str, str], str] = OrderedDict()
        self.not_counted = 0  # ops that raised an exception
        self.unknown_reports = 0  # reports on unknown or forgotten exposures
        self.too_early = 0  # ops of a task that waits for its outcome there, which ended before it was advised

    def __len__(self) -> int:
        return len(self._units)

    @property
    def open(self) -> int:
        """The number of coins whose outcome is awaited."""
        return len(self._open)

    @property
    def evicted(self) -> int:
        """The number of units and tallies evicted for room."""
        return self._units.evicted + self._tallies.evicted + self._by_endpoint.evicted

    def consume(self, op: ObservedOp) -> bool:
        """Count one settled op; returns whether its agent was shown advice on this endpoint. O(the unit's coins)."""
        try:
            return self._consume(op)
        except Exception:  # one bad op must not stop the others
            self.not_counted += 1
            log.exception("exposures.op_not_counted", failures=self.not_counted)
            return op.exposure_id is not None

    def expose(self, exposure: Exposure, outdated: Collection[str] = ()) -> None:
        """Apply a journalled exposure: opens a coin for each entry for which the unit has none.

        *outdated* are entries that have become another treatment since the offer: such a coin counts for the earlier
        trial.
        """
        unit = self._touch_unit(exposure.task or exposure.exposure_id)
        unit.exposures.append((exposure.exposure_id, exposure.endpoint))
        self._exposures[exposure.exposure_id] = (unit.key, exposure.endpoint)
        if len(unit.exposures) > MAX_EXPOSURES:
            self._exposures.pop(unit.exposures.pop(0)[0], None)
        for each in (as_one(exposure.endpoint, exposure.assignments), *exposure.assignments):
            if each.playbook_id not in unit.coins and len(unit.coins) < MAX_COINS:
                self._assign(unit, exposure, each, outdated=each.playbook_id in outdated)

    def report(self, reported: ReportedOutcome) -> None:
        """Apply a journalled report of an agent on an exposure."""
        key, endpoint = self._exposures.get(reported.exposure_id, ("", ""))
        unit = self._units.touch(key)
        if unit is None:
            self.unknown_reports += 1
            return
        for entry_id, coin in unit.coins.items():
            if not coin.by and coin.endpoint == endpoint and reported.at <= coin.until:
                self._settle(unit, entry_id, coin, reported.success, by="agent")

    def inform(self, informed: InformedTask) -> None:
        """Apply a journalled statement that a task read the playbook by itself."""
        unit = self._touch_unit(informed.task)
        if not unit.informed:
            unit.informed = True
            for entry_id, coin in unit.coins.items():
                self._trial(entry_id, coin).informed[coin.shown] += 1

    def close_overdue(self, now: str) -> Iterator[None]:
        """Count the coins without an outcome at *now* (RFC 3339) as missing; a little at each step."""
        for number, (key, entry_id) in enumerate(self._overdue(now), 1):
            unit = self._units.get(key)
            if unit is None:
                del self._open_coins(entry_id)[key, entry_id]
                continue
            self._miss(unit, entry_id)
            self._units.changed(key)
            if not number % _OVERDUE_A_STEP:
                yield

    def _overdue(self, now: str) -> Iterator[tuple[str, str]]:
        """The (unit, entry) pairs whose time is over, one by one; the caller settles each before it takes the next."""
        for awaited in (self._open, self._open_together):
            while awaited:
                who, until = next(iter(awaited.items()))
                if until >= now:
                    break
                yield who

    def coins(self, key: str) -> Mapping[str, Coin]:
        """The coins of the unit *key*, by entry."""
        unit = self._units.get(key)
        return unit.coins if unit is not None else {}

    def knows(self, exposure_id: str) -> bool:
        """Whether an outcome of *exposure_id* could still be counted."""
        return exposure_id in self._exposures

    def tally(self, entry_id: str) -> Tally | None:
        """The tally of an entry."""
        return self._tallies.get(entry_id)

    def tallies(self) -> list[Tally]:
        """The tallies of all entries."""
        return self._tallies.rows()

    def by_endpoint(self) -> list[Tally]:
        """The tallies of all advice of an endpoint at once, one per endpoint: each task counts once there."""
        return self._by_endpoint.rows()

    def begin_anew(self, entry_id: str) -> None:
        """Start another trial of the entry, or of the other treatment that it became; earlier counts are kept apart."""
        tally = self._tallies.get(entry_id)
        if tally is not None:
            tally.begin_anew()
            self._tallies.changed(entry_id)

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows that `take_dirty` returned, in any order."""
        super().load(rows)
        found: list[tuple[str, str, str]] = []
        for unit in self._units.rows():
            self._exposures |= {exposure_id: (unit.key, endpoint) for exposure_id, endpoint in unit.exposures}
            for coin in unit.coins.values():
                self._calls |= {op_id: unit.key for op_id in (coin.op_id, coin.latest) if op_id}
            found += [(coin.until, unit.key, name) for name, coin in unit.coins.items() if not coin.by]
        for until, key, name in sorted(found):
            self._open_coins(name)[key, name] = until

    def _consume(self, op: ObservedOp) -> bool:
        if op.amends and self._amend(op):
            return op.exposure_id is not None
        named = self._exposures.get(op.exposure_id) if op.exposure_id is not None else None
        key = named[0] if named is not None else op.task
        unit = self._units.get(key) if key else None
        if unit is None:
            return op.exposure_id is not None
        shown = too_early = False
        for entry_id, coin in unit.coins.items():
            if coin.endpoint != op.endpoint:
                continue
            if coin.during is not None and op.span_id == coin.during:
                continue  # this call was under way when its agent was told
            shown = shown or coin.shown
            if coin.by not in ("", "agent") or op.timestamp > coin.until:
                continue
            if named is None and not _ended_after(op, coin.at):
                too_early = True
                continue
            self._units.touch(unit.key)
            self._settle(unit, entry_id, coin, op.success, by="op", op_id=op.op_id or "")
        self.too_early += too_early
        return shown

    def _amend(self, op: ObservedOp) -> bool:
        """Correct the outcomes that *op* amends; returns whether there are any."""
        amended = False
        for op_id in amended_ids(op):
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

    def _touch_unit(self, key: str) -> Unit:
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
        name = each.playbook_id
        coin = unit.coins[name] = coin_of(exposure, each, self._tally(name).epoch - outdated)
        self._open_coins(name)[unit.key, name] = exposure.until
        trial = self._trial(name, coin)
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
        self._open_coins(entry_id).pop((unit.key, entry_id), None)

    def _miss(self, unit: Unit, entry_id: str) -> None:
        coin = unit.coins[entry_id]
        coin.by = "none"
        self._trial(entry_id, coin).missing[coin.shown] += 1
        self._open_coins(entry_id).pop((unit.key, entry_id), None)

    def _trial(self, entry_id: str, coin: Coin) -> Trial:
        return self._tally(entry_id).trial(coin.epoch)

    def _tally(self, entry_id: str) -> Tally:
        rows = self._by_endpoint if entry_id.startswith(TOGETHER) else self._tallies
        tally = rows.get(entry_id)
        if tally is None:
            tally = Tally(entry_id)
            rows.add(entry_id, tally)
        else:
            rows.changed(entry_id)
        return tally

    def _open_coins(self, entry_id: str) -> OrderedDict[tuple[str, str], str]:
        return self._open_together if entry_id.startswith(TOGETHER) else self._open


def _ended_after(op: ObservedOp, at: str) -> bool:
    """Whether *op*, which came after the advice of *at*, also ended after it.

    An op that we took right after its timestamp ended when it came: the timestamp may have whole seconds, or be of a
    clock that is a little behind. One that came later may be a call of before, so its timestamp decides. The id of an
    event's op has the time at which we took it. That of a received span's has the span's end: spans come in batches.
    """
    if op.timestamp >= at:
        return True
    taken = made_ms(op.op_id)
    return rfc3339_ms(taken * 10**6) >= at and op.timestamp > rfc3339_ms((taken - _RIGHT_AFTER_MS) * 10**6)
