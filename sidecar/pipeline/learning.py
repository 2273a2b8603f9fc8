"""Learning as one unit: ops → rules → playbook entries → advice with coins → outcomes → standing.

No I/O and no clock: it is fed ops and decisions, and the same sequence gives the same state. In the running observer
`store.in_order` and the decision journal feed it, in a replay the journals do. A simulation can call it directly:
`consume` ops, `decide_now` what `offers` returns, `cycle_now`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec

from sidecar.advice.advisor import EXPOSURE, INFORMED, OUTCOME
from sidecar.advice.exposures import ExposureBook
from sidecar.advice.offers import Offers
from sidecar.advice.standings import Standings
from sidecar.advice.treatment import Treatment, is_same
from sidecar.analysis.playbook_book import PlaybookBook
from sidecar.analysis.playbook_consolidator import DECISION_KIND as PLAYBOOK
from sidecar.analysis.rule_follower import RuleFollower
from sidecar.analysis.rules import RuleBook
from sidecar.gateway.route_template import templates_of
from sidecar.gateway_address import GatewayAddress
from sidecar.kept_rows import KeptBook
from sidecar.model import ObservedOp
from sidecar.model_learning import CycleMark, EntryChange, Exposure, InformedTask, PlaybookEntry, ReportedOutcome

CYCLE: Final = "cycle"
PLAYBOOK_CHANGE: Final = "playbook_change"
KINDS: Final = (CYCLE, PLAYBOOK, PLAYBOOK_CHANGE, EXPOSURE, OUTCOME, INFORMED)


class Learning(KeptBook):
    """A `Learner`: the three books that learn from each other. Single-threaded."""

    def __init__(self) -> None:
        self.rules = RuleBook()
        self.playbook = PlaybookBook()
        self.exposures = ExposureBook()
        self._follower = RuleFollower(self.rules, self.playbook)
        self._standings = Standings(self.exposures)
        super().__init__(self.rules, self.playbook, self.exposures)
        self.news = 0  # ops, agents' reports and people's decisions so far: what may make a cycle decide otherwise

    def consume(self, op: ObservedOp) -> None:
        """Take one settled op: first as an outcome of advice, then, unless its agent was advised, for the rules."""
        self.news += 1
        shown = self.exposures.consume(op)
        self.rules.consume(op, shown)

    def apply(self, kind: str, body: bytes) -> Iterator[None] | None:
        """Apply a decision. A cycle's work is returned, to be done before the next op or decision."""
        if kind == CYCLE:
            return self._cycle(msgspec.json.decode(body, type=CycleMark))
        if kind == PLAYBOOK:
            self._keep(msgspec.json.decode(body, type=PlaybookEntry))
        elif kind == PLAYBOOK_CHANGE:
            self._change(msgspec.json.decode(body, type=EntryChange))
        elif kind == EXPOSURE:
            self._expose(msgspec.json.decode(body, type=Exposure))
        elif kind == OUTCOME:
            self.news += 1
            self.exposures.report(msgspec.json.decode(body, type=ReportedOutcome))
        elif kind == INFORMED:
            self.exposures.inform(msgspec.json.decode(body, type=InformedTask))
        return None

    def proposals(self, at: str) -> Iterator[tuple[str, EntryChange | PlaybookEntry] | None]:
        """Yield (kind, body) of decisions due after a cycle's work; each must be decided before the next is requested.

        Yields None in between, where other tasks may run.
        """
        for each in self._follower.proposals(at):
            kind = PLAYBOOK if isinstance(each, PlaybookEntry) else PLAYBOOK_CHANGE
            yield (kind, each) if each is not None else None
        for change in self._standings.proposals(self.playbook.rows(), at):
            yield (PLAYBOOK_CHANGE, change) if change is not None else None

    def offers(
        self, *, holdout: float, window_s: float, draw: Callable[[], float], gateway: GatewayAddress | None = None
    ) -> Offers:
        """The maker of offers for calls to *gateway*, with these coins."""
        names_of = partial(self._names_of, gateway=gateway)
        return Offers(self.playbook, self.exposures, names_of, holdout=holdout, window_s=window_s, draw=draw)

    def decide_now(self, kind: str, body: object) -> None:
        """Apply a decision at once, with its work: for simulations without a journal (`benchmarks/learning_loop`)."""
        for _ in self.apply(kind, msgspec.json.encode(body)) or ():
            pass

    def cycle_now(self, at: str) -> None:
        """Run a whole cycle at once: search for rules, and decide what follows. For simulations, as `decide_now`."""
        self.decide_now(CYCLE, CycleMark(at=at))
        for proposal in self.proposals(at):
            if proposal is not None:
                self.decide_now(*proposal)

    @property
    def not_counted(self) -> int:
        """Ops that could not be counted."""
        return self.rules.not_counted + self.exposures.not_counted

    def _names_of(self, call: str, gateway: GatewayAddress | None) -> Iterator[str]:
        """The endpoints that *call* may be of, up to the first that calls were seen at: that is where it will go.

        A coarse template also is a name for calls of other paths, so it counts only if calls were seen there.
        """
        is_seen = self.rules.has_seen(call)
        for number, name in enumerate(templates_of(call, gateway)):
            is_seen = is_seen or self.rules.has_seen(name)
            if is_seen or number == 0:
                yield name
            if is_seen:
                return

    def _cycle(self, mark: CycleMark) -> Iterator[None]:
        yield from self.rules.learn()
        yield from self.exposures.close_overdue(mark.at)

    def _keep(self, entry: PlaybookEntry) -> None:
        self.news += entry.author == "import"
        before = self._treatment(entry.playbook_id)
        self.playbook.keep(entry)
        if before is not None and not self._is_same(before, self._treatment(entry.playbook_id)):
            self.exposures.begin_anew(entry.playbook_id)

    def _change(self, change: EntryChange) -> None:
        """Apply a change; restart the trial if the entry now tells another treatment, or is to be tried again."""
        before = self._treatment(change.playbook_id)
        self.news += change.by == "person"
        if not self.playbook.change(change):
            return
        is_another = before is not None and not self._is_same(before, self._treatment(change.playbook_id))
        if is_another or change.action in ("restore", "retry"):
            self.exposures.begin_anew(change.playbook_id)

    def _expose(self, exposure: Exposure) -> None:
        """Apply an exposure. Entries whose treatment changed between the offer and its decision are outdated."""
        outdated = set()
        for each in exposure.assignments:
            now = self._treatment(each.playbook_id)
            if now is not None and not self._is_same(now, self._treatment(each.playbook_id, each.version)):
                outdated.add(each.playbook_id)
        self.exposures.expose(exposure, outdated)

    def _treatment(self, playbook_id: str, version: int | None = None) -> Treatment | None:
        """What an entry tells agents to do, now or in *version*; None if it tells nothing."""
        row = self.playbook.get(playbook_id)
        if row is None:
            return None
        if version is None:
            told = row.told
        else:
            told = next((entry for entry in row.versions if entry.version == version), None)
        return Treatment(told.when, told.set, told.author == "rule") if told is not None else None

    @staticmethod
    def _is_same(one: Treatment, other: Treatment | None) -> bool:
        return other is not None and is_same(one, other)
