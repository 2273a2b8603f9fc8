"""The rules of one endpoint over time: found in a sheet of ops, checked against later ops, kept or dropped.

Pure. The rule book calls these functions for an endpoint with new ops; `rule_search` and `rule_evidence` do the search.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from math import sqrt

import msgspec
from msgspec.structs import replace

from sidecar.analysis.e_values import BLOCK, Table, bet, complete, difference_interval
from sidecar.analysis.rule_borders import (
    Border,
    Moved,
    borders_kept,
    borders_of,
    counted_as_told,
    moved,
    place,
    same_border,
    told,
)
from sidecar.analysis.rule_choice import ENOUGH, MAX_RULES, Ground, Weighed, choose, needed
from sidecar.analysis.rule_counts import Condition, Sheet, Together
from sidecar.analysis.rule_evidence import SEGMENT
from sidecar.analysis.rule_prior import Prior
from sidecar.analysis.rule_search import Snapshot, gain_beyond, snapshot, table, usable

_LOOK_AGAIN, _LOOK_LATE = 1 / 24, 1 / 8  # new ops that make a look due, relative to the last look
_SEARCH_AGAIN, _SEARCH_SOON, _SEARCH_LATE = (
    1 / 5,
    1 / 12,
    1 / 3,
)  # the same for a search: by default, with evidence, with rules
_CHECK_AGAIN = 16  # new ops that make a check of the rules due
_CONTRADICTED = 5.0
_DOUBT = 0.25  # shrinks a rule's difference, which selection makes look larger than it is
_EXPLAINED_AWAY, _WOULD_SHOW = 3.0, 6.0
_SHOWS = 2.0  # standard errors between the two rates


Counts = tuple[int, int, int, int]
"""Ops that met a conjunction, their successes, the other ops, and theirs."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """At *endpoint*, ops that meet all *conditions* succeed at another rate than the other ops do.

    *n* ops met them as `told`, of which *successes* succeeded; *others* did not. *log_e* is ln of the e-value that made
    it a rule; *since* is the time of its first report, *seen* that of the last op counted. *moved* are the cuts that
    are reported elsewhere than at the tested cut point: counts and rates are those at the reported places. Evidence
    belongs to the *conditions*: *tested* are the counts there, where they differ, and *low* and *high* a confidence
    sequence for the difference of those two rates. *is_better*: whether its ops succeed more often than others that
    the endpoint's other rules do not tell apart from them; that is what it is evidence for.
    """

    endpoint: str
    conditions: tuple[Condition, ...]
    n: int
    successes: int
    others: int
    other_successes: int
    low: float
    high: float
    log_e: float
    since: str
    seen: str
    moved: tuple[Moved, ...] = ()
    tested: Counts | None = None
    is_better: bool | None = None

    @property
    def told(self) -> Together:
        """The conditions as reported, with estimated cuts."""
        return self.as_told(self.conditions)

    def as_told(self, conditions: Iterable[Condition]) -> Together:
        """*conditions* with the rule's cuts at their reported places."""
        return told(conditions, self.moved)

    @property
    def counts(self) -> Counts:
        """The counts at the reported places."""
        return self.n, self.successes, self.others, self.other_successes

    @property
    def is_shown(self) -> bool:
        """Whether its two rates show what it is evidence for, beyond chance.

        If other rules are at work too, the rates may show nothing, or the reverse: the difference is among the ops
        that those do not tell apart.
        """
        if not (self.n and self.others) or self.is_better not in (None, self.rate > self.other_rate):
            return False
        every = (self.successes + self.other_successes) / (self.n + self.others)
        error = sqrt(every * (1 - every) * (1 / self.n + 1 / self.others))
        return abs(self.rate - self.other_rate) > _SHOWS * error

    @property
    def rate(self) -> float:
        """The success rate of the ops that met the conditions."""
        return self.successes / self.n if self.n else 0.0

    @property
    def other_rate(self) -> float:
        """The success rate of the ops that did not."""
        return self.other_successes / self.others if self.others else 0.0

    def text(self) -> str:
        """The rule as text: `WHEN state=NV, certified=true succeeds 97 % (n=120), without it 11 % (n=45)`."""
        when = ", ".join(condition.text() for condition in self.told)
        return (
            f"WHEN {when} succeeds {100 * self.rate:.0f} % (n={self.n}), "
            f"without it {100 * self.other_rate:.0f} % (n={self.others})"
        )


class Standing(msgspec.Struct):
    """A rule, its tested counts *before* the present sheet, and the evidence *against* it since.

    *before_as_told* are the counts before the sheet where its cuts were reported then, *moved*.
    """

    rule: Rule
    before: Counts = (0, 0, 0, 0)
    against: float = 0.0
    before_as_told: Counts = (0, 0, 0, 0)
    moved: tuple[Moved, ...] = ()


class EndpointRules(msgspec.Struct, omit_defaults=True):
    """One endpoint's sheet and rules. The *earlier* rules were found in an earlier sheet."""

    endpoint: str
    number: int
    last_seen: str
    sheet: Sheet
    restart: int = 0
    looked: int = 0  # ops of the sheet at the last look
    searched: int = 0  # ops of the sheet at the last search
    searches: int = 0
    checked: int = 0  # ops of the sheet at the last check of the rules
    learned: int = 0  # ops of the sheet at the last `RuleBook.learn`
    held: float = 0.0  # ln of this sheet's mixed e-value at the last look, 0 at least
    most: float = 0.0  # ln of the largest mixed e-value of this sheet so far
    suspects: list[Together] = []  # conjunctions named before the sheet began
    leading: list[Together] = []  # conjunctions with most evidence at the last look
    earlier: list[Standing] = []
    found: list[Standing] = []
    fallen: list[tuple[Condition, ...]] = []  # conditions of the last rules that were contradicted
    borders: list[Border] = []  # of rules with a numeric cut, and of the leading conjunction


def begin_anew(row: EndpointRules, dropped: Sequence[Together] = ()) -> None:
    """Start a new sheet with its own share of alpha; standing rules are taken over with their counts.

    The conjunctions *dropped* just now become suspects: where a rule stopped holding, its reverse may hold.
    """
    row.earlier = [*row.earlier, *row.found][:MAX_RULES]
    for each in row.earlier:
        rule = each.rule
        each.before, each.before_as_told, each.moved = rule.tested or rule.counts, rule.counts, rule.moved
    row.found = []
    row.looked = row.searched = row.searches = row.checked = row.learned = 0
    kept = [*dropped, *(standing.rule.conditions for standing in row.earlier)]
    row.sheet = row.sheet.begin(each for together in kept for each in together)
    row.borders = borders_kept(row.borders, (each.rule.conditions for each in row.earlier))
    _store_beside(row)
    row.held, row.most, row.leading, row.suspects = 0.0, 0.0, [], list(dict.fromkeys(dropped))
    row.restart += 1


def drop_contradicted(row: EndpointRules) -> int:
    """Update the rules' counts; drop those that the ops since the last check contradict. Returns their number."""
    ops = row.sheet.ops
    if not (row.earlier or row.found) or (ops - row.checked < _CHECK_AGAIN and not row.sheet.is_full):
        return 0
    world = snapshot(row.sheet, ops)
    gone = [each for each in (*row.earlier, *row.found) if not _update_and_check(each, world, row)]
    row.earlier = [each for each in row.earlier if each not in gone]
    row.found = [each for each in row.found if each not in gone]
    row.fallen = [*row.fallen, *(each.rule.conditions for each in gone)][-MAX_RULES:]
    row.checked = ops
    return len(gone)


def is_due(row: EndpointRules) -> bool:
    """Whether there are enough new ops to look again. Evidence is valid at any time: this only saves work."""
    ops = complete(row.sheet.ops)
    part = _LOOK_LATE if row.found else _LOOK_AGAIN
    return ops - row.looked >= max(BLOCK, row.looked * part) or _is_search_due(row, ops)


def _is_search_due(row: EndpointRules, ops: int) -> bool:
    part = _SEARCH_LATE if row.found else _SEARCH_SOON if row.held > 0 else _SEARCH_AGAIN
    return ops - row.searched >= (BLOCK if row.sheet.is_full else max(BLOCK, row.searched * part))


def find(row: EndpointRules, world: Snapshot, log_alpha: float, most_borders: int) -> Generator[None, None, None]:
    """Store in *row* the rules that the ops up to *world* prove, beside the earlier rules.

    Earlier rules that the new ones explain away are removed.
    """
    search = _is_search_due(row, world.ops)
    row.looked = world.ops
    yield from place(row.borders, world, _conjunctions_to_place(row, row.found))
    prior = Prior(world.bits, row.suspects)
    ground = Ground(world, usable(world), prior, _search_range(row, world), row.borders)
    chosen = yield from _choose_rules(row, ground, log_alpha, search=search)
    if chosen and not row.found and not search:  # the leading conjunction is proven; another may fit better by now
        search = True
        chosen = yield from _choose_rules(row, ground, log_alpha, search=True)
    if search:
        row.searched, row.searches = world.ops, row.searches + 1
    before = {each.rule.conditions: each for each in row.found}
    yield from _place_new(row, world, chosen, most_borders)
    row.found = [_standing(row, world, each, before.get(each.together)) for each in chosen]
    row.earlier = [each for each in row.earlier if not _explained_away(each, row, world)]


def _place_new(
    row: EndpointRules, world: Snapshot, chosen: Sequence[Weighed], most_borders: int
) -> Generator[None, None, None]:
    """Give each cut of the rules a border; new ones are placed at once, so that a rule is told at its place first."""
    known, wanted = row.borders, _conjunctions_to_place(row, chosen)
    row.borders = borders_of(known, world, wanted, most_borders)
    _store_beside(row)
    yield from place([each for each in row.borders if each not in known], world, wanted)


def _store_beside(row: EndpointRules) -> None:
    """From now on, store all numbers of the fields that have a border, whatever else is stored."""
    fields = {each.field for each in row.borders}
    for name, column in row.sheet.fields.items():
        column.has_border = name in fields


def _conjunctions_to_place(row: EndpointRules, found: Iterable[Standing | Weighed]) -> list[Together]:
    """The conjunctions whose cuts are estimated: the rules, and the leading conjunction if it has evidence."""
    about_to = row.leading[:1] if row.held > 0 else []
    rules = [each.together if isinstance(each, Weighed) else each.rule.conditions for each in found]
    return [*(each.rule.conditions for each in row.earlier), *rules, *about_to]


def _search_range(row: EndpointRules, world: Snapshot) -> int:
    """The ops to search: all, or in every other search only the later half, where a late effect is easier to see."""
    late = world.ops // 2 // SEGMENT * SEGMENT if row.searches % 2 else 0
    return world.every >> late << late


def _choose_rules(
    row: EndpointRules, ground: Ground, log_alpha: float, *, search: bool
) -> Generator[None, None, list[Weighed]]:
    """The rules of the sheet, each given those before it; empty until the mixed e-value proves that there is one."""
    known = [each.rule.conditions for each in row.earlier]
    remembered = [*row.leading, *row.suspects, *(each.rule.conditions for each in row.found)]
    choice = yield from choose(ground, known, remembered, search=search)
    row.leading, row.held, row.most = choice.leading, max(choice.log_all, 0.0), max(row.most, choice.log_all)
    is_proven = row.most >= -log_alpha and choice.log_all >= 0  # proven once, and not refuted since
    chosen: list[Weighed] = []
    while is_proven and choice.best is not None and len(known) + len(chosen) < MAX_RULES:
        chosen.append(_same_as_found(row, ground.world, choice.best))
        beside = [*known, *(each.together for each in chosen)]
        choice = yield from choose(ground, beside, remembered, search=search)
        is_proven = choice.log_all >= ENOUGH
    return needed(ground, chosen, known)


def _same_as_found(row: EndpointRules, world: Snapshot, best: Weighed) -> Weighed:
    """*best*, or the found rule with a certain border at the neighbouring cut point: they are the same rule."""
    for each in row.found:
        together, bits = each.rule.conditions, world.of(each.rule.conditions)
        if bits is not None and same_border(row.borders, together, best.together):
            return best._replace(together=together, log_e=each.rule.log_e, bits=bits)
    return best


def _standing(row: EndpointRules, world: Snapshot, each: Weighed, before: Standing | None) -> Standing:
    since = before.rule.since if before else row.last_seen
    rule = _rule(row, world, each.together, log_e=each.log_e, since=since)
    rule = replace(rule, is_better=each.is_better)
    return Standing(rule, against=before.against if before else 0.0)


def _rule(
    row: EndpointRules, world: Snapshot, together: Together, *, log_e: float, since: str, before: Standing | None = None
) -> Rule:
    """The rule with its counts in this sheet, and those of *before*."""
    tested = table(world, world.of(together) or 0)
    if before is not None:
        tested = _sum(tested, before.before)
    low, high = difference_interval(tested)
    places = moved(row.borders, together)
    counted = _as_told(world, together, places, before) if places else tested
    if not _is_alike(counted, tested):  # too few numbers are known beside the cut
        places, counted = (), tested
    return Rule(
        endpoint=row.endpoint,
        conditions=together,
        n=counted.n,
        successes=counted.successes,
        others=counted.others,
        other_successes=counted.other_successes,
        low=low,
        high=high,
        log_e=log_e,
        since=since,
        seen=row.last_seen,
        moved=places,
        tested=tested if places else None,
    )


def _as_told(world: Snapshot, together: Together, places: tuple[Moved, ...], before: Standing | None) -> Table:
    """The counts with the cuts at *places*; those before this sheet only if the places were the same."""
    counted = counted_as_told(world, together, places)
    return _sum(counted, before.before_as_told) if before is not None and before.moved == places else counted


def _sum(one: Table, other: Counts) -> Table:
    return Table(*(a + b for a, b in zip(one, other, strict=True)))


def _is_alike(one: Table, other: Table) -> bool:
    """Whether both have ops on either side, and the same side succeeds more often."""
    if not (one.n and one.others and other.n and other.others):
        return False
    spread, other_spread = (each.successes * each.others - each.other_successes * each.n for each in (one, other))
    return (spread > 0) == (other_spread > 0)


def _update_and_check(each: Standing, world: Snapshot, row: EndpointRules) -> bool:
    """Update *each* with the ops since the last check; False if they contradict it."""
    bits = world.of(each.rule.conditions)
    if bits is None:
        return True
    new = table(world, bits, world.every & ~((1 << row.checked) - 1))
    each.against = max(0.0, each.against - bet(new, *_rates(each.rule)))
    if each.against >= _CONTRADICTED:
        return False
    rule = _rule(row, world, each.rule.conditions, log_e=each.rule.log_e, since=each.rule.since, before=each)
    each.rule = replace(rule, is_better=each.rule.is_better)
    return True


def _rates(rule: Rule) -> tuple[float, float]:
    """The rule's two rates, shrunk towards each other: selection makes those of a new rule look too far apart."""
    n, successes, others, other_successes = rule.tested or rule.counts
    rate, other = (successes + 0.5) / (n + 1), (other_successes + 0.5) / (others + 1)
    middle = (rate + other) / 2
    return middle + (1 - _DOUBT) * (rate - middle), middle + (1 - _DOUBT) * (other - middle)


def _explained_away(each: Standing, row: EndpointRules, world: Snapshot) -> bool:
    """Whether this sheet would show the rule by itself, but not beside the rules found in it."""
    bits = world.of(each.rule.conditions)
    if bits is None or not row.found or gain_beyond(world, bits, []) < _WOULD_SHOW:
        return False
    others = [one for one in (*row.earlier, *row.found) if one is not each]
    explained = [found for one in others if (found := world.of(one.rule.conditions)) is not None]
    return gain_beyond(world, bits, explained) < _EXPLAINED_AWAY


def drop_unseen(row: EndpointRules, world: Snapshot) -> None:
    """Drop earlier rules whose conditions no op of a whole sheet met: they no longer describe the calls made."""
    row.earlier = [each for each in row.earlier if world.of(each.rule.conditions) != 0]
