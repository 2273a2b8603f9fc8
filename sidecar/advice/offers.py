"""Builds the offer for a call: the entries that apply, the most valuable first, each with a random assignment.

Pure except for the random source, which is injected. An offer becomes an exposure once it is in the decision journal;
no part of it may be told before. A task keeps its assignment for an entry, even while that is still being written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from sidecar.advice.exposures import ExposureBook
from sidecar.advice.fit import Fit, fit, lacking
from sidecar.advice.standing import CANDIDATE_PROPENSITY
from sidecar.advice.uplift import estimate, total
from sidecar.call_fields import asked_name
from sidecar.clock import rfc3339_ms
from sidecar.entry_text import as_told, own_name
from sidecar.model_learning import Advice, AdviceItem, AdviceQuery, Assignment, EntryRow, Exposure

MAX_DRAWN: Final = 5000  # tasks whose coins are kept besides those in the book
MAX_NAMES: Final = 16  # of missing facts
MAX_TEXT: Final = 500  # characters of an item
NO_TASK: Final = (
    "no `task`: this question was assigned by chance on its own, and the next may be answered otherwise. Name it, "
    "here and in its operations, or put the exposure_id into the operation: else no outcome counts"
)
_TRUST_AT = 20  # tasks of the smaller group at which the measured effect weighs as much as the rule's own rates
_UNMEASURED = 0.05  # assumed effect of an unmeasured entry
_PER_CONDITION = 0.1  # bonus per condition: more specific entries go first


class EntrySource(Protocol):
    """The source of entries. Implementation: `analysis.playbook_book`."""

    def at(self, endpoint: str) -> Sequence[EntryRow]:
        """The entries for *endpoint*."""
        ...


class Offer(NamedTuple):
    """The exposure to be decided (None if no entry applies), and the advice to be told once it is."""

    exposure: Exposure | None
    advice: Advice


class _Coin(NamedTuple):
    propensity: float
    shown: bool


class Offers:
    """Makes offers. *holdout* is the share of tasks from which active entries are withheld; *draw* returns 0 to 1.

    *names_of* gives the endpoints that a call may be of, for a caller who names a path. A proxied call has one.
    """

    def __init__(
        self,
        entries: EntrySource,
        book: ExposureBook,
        names_of: Callable[[str], Iterable[str]],
        *,
        holdout: float,
        window_s: float,
        draw: Callable[[], float],
    ) -> None:
        self._names_of = names_of
        self._entries = entries
        self._book = book
        self._holdout = holdout
        self._window_ns = int(window_s * 1e9)
        self._draw = draw
        self._drawn: OrderedDict[str, dict[str, _Coin]] = OrderedDict()

    def offer(self, query: AdviceQuery, now_ns: int, exposure_id: str) -> Offer:
        """The offer for *query* at *now_ns* (ns since the Unix epoch)."""
        query, rows = self._entries_for(query)
        found = [each for row in rows if (each := fit(row, query)) is not None]
        depends_on = sorted({asked_name(own_name(name)) for row in rows for name in lacking(row, query)})[:MAX_NAMES]
        found.sort(key=lambda each: (-self._worth(each), each.entry.playbook_id))
        found = self._within_limits(query, found, exposure_id)
        if not found:
            return Offer(None, Advice(exposure_id=None, advice=[], depends_on=depends_on))
        coins = [self._coin(query.task, each) for each in found]
        exposure = Exposure(
            exposure_id=exposure_id,
            at=rfc3339_ms(now_ns),
            until=rfc3339_ms(now_ns + self._window_ns),
            endpoint=query.endpoint,
            task=query.task,
            door=query.door,
            during=query.during,
            assignments=[
                Assignment(
                    playbook_id=each.entry.playbook_id,
                    version=each.entry.version,
                    propensity=coin.propensity,
                    shown=coin.shown,
                )
                for each, coin in zip(found, coins, strict=True)
            ],
        )
        shown = [self._item(each) for each, coin in zip(found, coins, strict=True) if coin.shown]
        hints = [NO_TASK] if query.task is None and query.during is None else []
        return Offer(exposure, Advice(exposure_id=exposure_id, advice=shown, depends_on=depends_on, hints=hints))

    def effect(self, entry_id: str) -> float | None:
        """The measured uplift of an entry so far; None if unknown."""
        tally = self._book.tally(entry_id)
        return estimate(tally.now.strata) if tally is not None else None

    def _entries_for(self, query: AdviceQuery) -> tuple[AdviceQuery, Sequence[EntryRow]]:
        """*query* with the name of an endpoint that has entries, if there is one, and these."""
        rows = self._entries.at(query.endpoint)
        if not rows and query.door != "proxy":
            for name in self._names_of(query.endpoint):
                rows = self._entries.at(name)
                if rows:
                    return msgspec.structs.replace(query, endpoint=name), rows
        return query, rows

    def _within_limits(self, query: AdviceQuery, found: Sequence[Fit], exposure_id: str) -> list[Fit]:
        """As many of *found* as the query's limit allows and the door has room for, as if all of them were shown."""
        kept: list[Fit] = []
        items: list[AdviceItem] = []
        for each in found:
            if len(kept) == query.limit:
                break
            more = [*items, self._item(each)]
            if query.carries is None or query.carries(Advice(exposure_id=exposure_id, advice=more)):
                kept.append(each)
                items = more
        return kept

    def _coin(self, task: str | None, each: Fit) -> _Coin:
        entry_id = each.entry.playbook_id
        if task is not None:
            known = self._book.coins(task).get(entry_id)
            if known is not None:
                return _Coin(known.propensity, known.shown)
            drawn = self._drawn.setdefault(task, {})
            self._drawn.move_to_end(task)
            if entry_id in drawn:
                return drawn[entry_id]
        propensity = 1 - self._holdout if each.row.state == "active" else CANDIDATE_PROPENSITY
        coin = _Coin(propensity, self._draw() < propensity)
        if task is not None:
            drawn[entry_id] = coin
            if len(self._drawn) > MAX_DRAWN:
                self._drawn.popitem(last=False)
        return coin

    def _worth(self, each: Fit) -> float:
        """Expected effect (the rule's rates, later the measured effect) times a bonus for more conditions."""
        entry = each.entry
        said = _UNMEASURED
        if entry.rate is not None and entry.other_rate is not None:
            said = abs(entry.rate - entry.other_rate) / 2
        tally = self._book.tally(entry.playbook_id)
        if tally is not None:
            measured = estimate(tally.now.strata)
            shown, withheld = (
                total(each.shown for each in tally.now.strata),
                total(each.withheld for each in tally.now.strata),
            )
            tasks = min(shown.tasks, withheld.tasks)
            if measured is not None:
                said += (measured - said) * tasks / (tasks + _TRUST_AT)
        return said * (1 + _PER_CONDITION * len(entry.when))

    def _item(self, each: Fit) -> AdviceItem:
        entry = each.entry
        told = as_told(entry, each.to_set)
        return AdviceItem(
            id=entry.playbook_id,
            version=entry.version,
            kind=entry.kind,
            state=each.row.state,
            text=told.text[:MAX_TEXT],
            when=told.when,
            set=told.set,
            evidence=entry.calls or entry.successes,
            effect=self.effect(entry.playbook_id),
        )
