"""Connects the advisor and the doors' views to learning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import structlog
from msgspec.structs import asdict, replace

from sidecar.advice.advisor import Advisor
from sidecar.advice.effects import Effects
from sidecar.analysis.playbook_consolidator import DECISION_KIND as PLAYBOOK
from sidecar.clock import rfc3339_ms
from sidecar.errors import ConflictError, NotKnownError, ObserverError
from sidecar.gateway_address import GatewayAddress
from sidecar.model_learning import (
    CycleMark,
    EntryAction,
    EntryChange,
    EntryRow,
    Measured,
    PlaybookEntry,
    PlaybookHistory,
    PlaybookView,
)
from sidecar.pipeline.learning import CYCLE, PLAYBOOK_CHANGE, Learning
from sidecar.protocols import Clock
from sidecar.settings import Settings
from sidecar.store.in_order import InOrder

log = structlog.get_logger(__name__)

_RULES_TOLD = 20


class LearningLoop:
    """The running observer's path from rules to advice: each cycle's step, the advisor, people's decisions, views.

    As a `Stage` it measures at start what was restored, which people would otherwise see only after a first cycle.
    *draw* throws the coins of tasks: it returns 0 to 1.
    """

    name = "effects"

    def __init__(
        self, settings: Settings, learning: Learning, in_order: InOrder, clock: Clock, draw: Callable[[], float]
    ) -> None:
        self._learning = learning
        self._order = in_order
        self._clock = clock
        self._effects = Effects(learning.exposures)
        self._measuring: asyncio.Task[None] | None = None
        self._learnt = -1  # the learning's `news` at the last cycle
        self.undecided = 0  # cycles whose results the decision journal did not accept
        offers = learning.offers(
            holdout=settings.holdout,
            window_s=settings.outcome_window,
            draw=draw,
            gateway=GatewayAddress.of(settings.gateway_url),
        )
        self.advisor = Advisor(offers, learning.exposures, in_order, clock, within_s=settings.advice_timeout)

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to measure; does not wait for it."""
        self._measuring = tasks.create_task(self._measure_restored(), name="effects")

    async def stop(self) -> None:
        """Measure no further."""
        if self._measuring is not None:
            self._measuring.cancel()

    async def _measure_restored(self) -> None:
        try:
            await self._effects.measure()
        except Exception:  # the next cycle tries again
            log.exception("effects.not_measured")

    async def learn(self) -> None:
        """A cycle's step: mark it, search for rules in slices, decide what follows, while the journal accepts it."""
        news = self._learning.news
        if news == self._learnt and not self._learning.exposures.open:
            return  # nothing happened since: no mark
        try:
            await self._order.decide(CYCLE, CycleMark(at=self._now()))
            self._learnt = news
            await self._order.caught_up()
            for proposal in self._learning.proposals(self._now()):
                if proposal is not None:
                    await self._order.decide(*proposal)
                    await self._order.caught_up()
                await asyncio.sleep(0)
            await self._effects.measure()
        except ObserverError as exc:
            self.undecided += 1
            log.warning("learning.not_written", error=str(exc))

    async def change(
        self, playbook_id: str, action: EntryAction, why: str, version: int | None = None, *, who: str = ""
    ) -> PlaybookHistory:
        """Record the decision of a person (*who*) on *version* of an entry (default: the latest).

        Raises NotKnownError, JournalError; ConflictError if an entry that says nothing is approved, or one that is
        not retired restored.
        """
        row = self._row(playbook_id)
        versions = {entry.version: entry for entry in row.versions}
        known = list(versions)
        if version is not None and version not in known:
            raise NotKnownError(
                f"version {version} of {playbook_id[:80]} is not known",
                f"the latest is {known[-1]}",
                "Look at it first",
            )
        if action == "approve" and not versions[version or known[-1]].says_something:
            raise ConflictError(
                f"{playbook_id[:80]} has nothing that an agent could be told",
                "its calls said nothing of their inputs",
                "Send `input_summary` or `features` with the events; the next version will tell of them",
            )
        if action == "restore" and row.state != "retired":
            raise ConflictError(
                f"{playbook_id[:80]} is not retired",
                f"it is {row.state}, and to restore it would begin its measurement anew",
                "Restore takes back a retirement; approve the entry if it should be active",
            )
        change = EntryChange(
            playbook_id=playbook_id,
            at=self._now(),
            action=action,
            by="person",
            version=version or known[-1],
            why=why,
            who=who,
        )
        await self._order.decide(PLAYBOOK_CHANGE, change)
        await self._order.caught_up()
        return self.history(playbook_id)

    async def take_over(self, entries: Sequence[PlaybookEntry]) -> list[str]:
        """Import *entries* for a person: those that say something new become candidates. Raises JournalError."""
        taken = []
        for entry in entries:
            before = self._learning.playbook.entry(entry.playbook_id)
            if before is not None and _same(before, entry):
                continue
            version = before.version + 1 if before is not None else 1
            await self._order.decide(PLAYBOOK, replace(entry, at=self._now(), version=version))
            await self._order.caught_up()
            taken.append(entry.playbook_id)
        return taken

    def views(self, as_of: str | None = None) -> Iterator[PlaybookView]:
        """See `PlaybookKeeper`. Entries of a past time come without their effects."""
        book = self._learning.playbook
        if as_of is not None:
            return (_view(row, None) for row in book.as_of(as_of))
        return (
            _view(row, self._effects.of(row.latest.playbook_id))
            for row in book.rows()
            if row.latest.says_something or row.told is not None
        )

    def history(self, playbook_id: str) -> PlaybookHistory:
        """One entry with its full history. Raises NotKnownError."""
        row = self._row(playbook_id)
        view = _view(row, self._effects.of(playbook_id))
        return PlaybookHistory(
            **asdict(view),
            told=row.told,
            versions=list(row.versions),
            changes=list(row.changes),
            forgotten=row.forgotten,
        )

    def rule_stats(self) -> dict[str, Any]:
        """Rule statistics for `/stats`."""
        report = self._learning.rules.report()
        counts = {name: getattr(report, name) for name in ("endpoints", "ops", "left_out", "skipped", "evicted")}
        shown = [rule for rule in report.rules if rule.is_shown]
        told = [f"{rule.endpoint}: {rule.text()}" for rule in shown[:_RULES_TOLD]]
        return {"found": len(report.rules), "dropped": self._learning.rules.dropped, **counts, "best": told}

    def advice_stats(self) -> dict[str, Any]:
        """Advice statistics, and whether it helped, for `/stats`."""
        exposures, advisor = self._learning.exposures, self.advisor
        states = [row.state for row in self._learning.playbook.rows()]
        return {
            "asked": advisor.asked,
            "told": advisor.told,
            "undecided": advisor.undecided,
            "tasks": len(exposures),
            "open": exposures.open,
            "unknown_reports": exposures.unknown_reports,
            "too_early": exposures.too_early,
            "overtaken": self._learning.playbook.overtaken,
            "entries": {state: states.count(state) for state in ("candidate", "active", "retired")},
            "measured": self._effects.overall(),
            "avoided": self._effects.avoided(),
        }

    def _row(self, playbook_id: str) -> EntryRow:
        row = self._learning.playbook.get(playbook_id)
        if row is None:
            raise NotKnownError(
                f"playbook entry {playbook_id[:80]!r} is not known", "none has this id", "See GET /playbooks"
            )
        return row

    def _now(self) -> str:
        return rfc3339_ms(self._clock.time_ns())


def _same(one: PlaybookEntry, other: PlaybookEntry) -> bool:
    """Whether both entries say the same."""
    return (one.kind, one.endpoint, one.text, one.when, one.set) == (
        other.kind,
        other.endpoint,
        other.text,
        other.when,
        other.set,
    )


def _view(row: EntryRow, measured: Measured | None) -> PlaybookView:
    return PlaybookView(**asdict(row.latest), state=row.state, approved=row.approved, measured=measured)
