"""Rules: conditions that separate an endpoint's successes from its failures, as far as the evidence goes.

Wiring: the pipeline passes every settled op to `consume` (O(its fields)), and once a cycle runs `learn()` to its end,
in slices (`for _ in book.learn(): await asyncio.sleep(0)`); then `rules(endpoint)` and `report()` return what holds.
State is a function of the order of `consume` and `learn` calls alone: a replay that repeats the cycles where their
marks are reaches the same rules. Saved and restored like the other books: `load`, `prepare`, `take_dirty`,
`put_back`. Ops of agents that were shown advice are excluded (`shown`; by default, those with an exposure id), and
so are corrections. An op that amends one of the last ops of its endpoint changes that op's outcome and completes its
fields; if that one was of another endpoint, as where a tool's call turns out to be an HTTP call, each endpoint learns.

In a world without rules, at most one run in twenty, however long, ever reports one: alpha is spent over conjunctions
(`rule_prior`), endpoints and restarts, and the evidence is valid at any time (`rule_evidence`). A rule is dropped when
the ops since it was found fit "no difference" e⁵ times better than the rule; the endpoint's counts then start anew, as
they do when a sheet of 4096 ops is full.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from math import log
from typing import Final

import msgspec
import structlog

from sidecar.analysis.e_values import ALPHA, MAX_OPS, complete, log_restart_share, log_share
from sidecar.analysis.fingerprint import MAX_ENDPOINT
from sidecar.analysis.incidents import CORRECTION
from sidecar.analysis.rule_borders import MAX_BORDERS
from sidecar.analysis.rule_counts import MAX_COLUMNS, Condition, Room, Sheet, Together, checksums
from sidecar.analysis.rule_findings import Finding, finding
from sidecar.analysis.rule_search import snapshot
from sidecar.analysis.rule_standing import EndpointRules, Rule, begin_anew, drop_contradicted, drop_unseen, find, is_due
from sidecar.kept_rows import KeptBook, KeptRows
from sidecar.model import ObservedOp, amended_ids
from sidecar.normalize import clean_text

log_book = structlog.get_logger(__name__)

MAX_ENDPOINTS: Final = 1000
ALL_COLUMNS: Final = 24_000  # for all endpoints: some 20 MiB; beyond it an endpoint gets `_FEW_COLUMNS`
_FEW_COLUMNS = 32
_SHEET_NUMBERS = 12_288  # stored as they are, per endpoint: three full fields
_ALL_NUMBERS = 500_000  # for all endpoints: 5 MiB; beyond it only those beside borders, up to twice as many
_MOST_AMENDED_ROWS = 32  # endpoints in which an amended op is sought: its reports come soon after each other
_ALL_BORDERS = 500  # for all endpoints; beyond it an endpoint gets one


class Numbering(msgspec.Struct):
    """The number of endpoints there ever were: each has its own share of alpha."""

    next: int = 0


class RuleReport(msgspec.Struct, frozen=True, kw_only=True):
    """All rules, the best proven first, and the ops that they are sought in now; other counts are since the start."""

    rules: list[Rule]
    endpoints: int
    ops: int
    left_out: int
    skipped: int
    evicted: int


class RuleBook(KeptBook):
    """Keeps at most 1000 endpoints; the least recent is evicted and counted. All methods belong to one thread."""

    def __init__(self, alpha: float = ALPHA) -> None:
        self._rows = KeptRows("rules/", EndpointRules, MAX_ENDPOINTS)
        self._numbering = KeptRows("rule_numbering/", Numbering, 1)
        super().__init__(self._rows, self._numbering)
        self._log_alpha = log(alpha)
        self._columns = 0
        self._borders = 0
        self._numbers = 0
        self.left_out = 0  # ops of advised agents, corrections, and amendments of ops no longer kept
        self.skipped = 0  # ops that arrived while their endpoint's sheet was full
        self.not_counted = 0  # ops or endpoints that raised an exception
        self.dropped = 0  # rules that stopped holding

    def consume(self, op: ObservedOp, shown: bool | None = None) -> None:
        """Count one settled op. O(its fields). *shown*: whether its agent had been shown advice."""
        try:
            is_advised = op.exposure_id is not None if shown is None else shown
            is_late = False
            if op.amends:
                own = self._rows.touch(op.endpoint) or self._rows.touch(clean_text(op.endpoint[:MAX_ENDPOINT]))
                amended = self._amended(op)
                if own is not None and own.endpoint in amended:
                    return
                is_late = not amended
            if is_advised or op.source == CORRECTION or is_late:
                self.left_out += 1
                return
            row = self._rows.touch(op.endpoint) or self._row(op)
            row.last_seen = max(row.last_seen, op.timestamp)
            sheet = row.sheet
            if sheet.is_full:
                self.skipped += 1
                return
            columns, stored = sheet.columns, sheet.numbers
            sheet.add(op, self._room())
            self._columns += sheet.columns - columns
            self._numbers += sheet.numbers - stored
        except Exception:  # one bad op must not stop the others
            self.not_counted += 1
            log_book.exception("rules.op_not_counted", failures=self.not_counted)

    def _room(self) -> Room:
        return Room(
            MAX_COLUMNS if self._columns < ALL_COLUMNS else _FEW_COLUMNS,
            _SHEET_NUMBERS if self._numbers < _ALL_NUMBERS else 0,
            self._numbers < 2 * _ALL_NUMBERS,
        )

    def _amended(self, op: ObservedOp) -> set[str]:
        """Change the ops that *op* amends, in the endpoints that had the last ops. Returns these endpoints."""
        room = self._room()
        ids = checksums(amended_ids(op))
        amended = set()
        for row in self._rows.last(_MOST_AMENDED_ROWS):
            columns, stored = row.sheet.columns, row.sheet.numbers
            if not row.sheet.amend(op, ids, room):
                continue
            amended.add(row.endpoint)
            self._rows.changed(row.endpoint)
            self._columns += row.sheet.columns - columns
            self._numbers += row.sheet.numbers - stored
        return amended

    def rules(self, endpoint: str) -> list[Rule]:
        """The rules of *endpoint* as of the last `learn`, the best proven first."""
        row = self._rows.get(clean_text(endpoint[:MAX_ENDPOINT]))
        standing = [*row.earlier, *row.found] if row is not None else []
        return sorted((each.rule for each in standing), key=_by_evidence)

    def has_seen(self, endpoint: str) -> bool:
        """Whether calls of *endpoint* are counted here."""
        return self._rows.get(clean_text(endpoint[:MAX_ENDPOINT])) is not None

    @property
    def ops(self) -> int:
        """The ops in which rules are sought now: those of all endpoints since each began anew."""
        return sum(row.sheet.ops for row in self._rows.rows())

    def report(self) -> RuleReport:
        """All rules and counters."""
        rules = [each.rule for row in self._rows.rows() for each in (*row.earlier, *row.found)]
        return RuleReport(
            rules=sorted(rules, key=_by_evidence),
            endpoints=len(self._rows),
            ops=self.ops,
            left_out=self.left_out,
            skipped=self.skipped,
            evicted=self._rows.evicted,
        )

    def finding(self, rule: Rule) -> Finding:
        """Details of *rule* from the ops of its endpoint."""
        row = self._rows.get(rule.endpoint)
        return finding(row.sheet if row is not None else Sheet(), rule)

    def fallen(self) -> Iterator[tuple[str, tuple[Condition, ...]]]:
        """(endpoint, conditions) of recently contradicted rules."""
        for row in self._rows.rows():
            for together in row.fallen:
                yield row.endpoint, together

    def learn(self) -> Iterator[None]:
        """Look at every endpoint with enough new ops, a little per step. To be run once a cycle, to its end."""
        rows = self._rows.rows()
        self._columns = sum(row.sheet.columns for row in rows)
        self._numbers = sum(row.sheet.numbers for row in rows)
        self._borders = sum(len(row.borders) for row in rows)
        for row in rows:
            if row.sheet.ops == row.learned:  # no new ops: the result would be the same
                continue
            row.learned = row.sheet.ops
            try:
                yield from self._look(row)
            except Exception:  # one bad endpoint must not stop the others
                self.not_counted += 1
                log_book.exception("rules.endpoint_not_learned", endpoint=row.endpoint, failures=self.not_counted)
            self._rows.changed(row.endpoint)
            yield

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows that `take_dirty` returned, in any order."""
        super().load(rows)
        self._columns = sum(row.sheet.columns for row in self._rows.rows())
        self._numbers = sum(row.sheet.numbers for row in self._rows.rows())

    @property
    def evicted(self) -> int:
        """The number of endpoints evicted for room."""
        return self._rows.evicted

    def _row(self, op: ObservedOp) -> EndpointRules:
        key = clean_text(op.endpoint[:MAX_ENDPOINT])
        row = self._rows.touch(key)
        if row is None:
            numbering = self._numbering.touch("")
            if numbering is None:
                numbering = Numbering()
                self._numbering.add("", numbering)
            row = EndpointRules(key, numbering.next, op.timestamp, Sheet())
            numbering.next += 1
            self._rows.add(key, row)
        return row

    def _look(self, row: EndpointRules) -> Generator[None, None, None]:
        gone = drop_contradicted(row)
        if gone:
            self.dropped += gone
            self._begin_anew(row, row.fallen[-gone:])
            return
        is_full, ops = row.sheet.is_full, complete(row.sheet.ops)
        if is_due(row):
            yield
            world = snapshot(row.sheet, ops)
            yield
            log_alpha = self._log_alpha + log_share(row.number) + log_restart_share(row.restart)
            before, most = len(row.borders), MAX_BORDERS if self._borders < _ALL_BORDERS else 1
            yield from find(row, world, log_alpha, most)
            self._borders += len(row.borders) - before
        if is_full:
            drop_unseen(row, snapshot(row.sheet, MAX_OPS))
            self._begin_anew(row)

    def _begin_anew(self, row: EndpointRules, dropped: Sequence[Together] = ()) -> None:
        self._columns -= row.sheet.columns
        self._numbers -= row.sheet.numbers
        begin_anew(row, dropped)
        self._columns += row.sheet.columns


def _by_evidence(rule: Rule) -> tuple[float, str]:
    return -rule.log_e, rule.text()
