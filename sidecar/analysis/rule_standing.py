"""The rules of one endpoint over time: found in a sheet of ops, held against the ops that follow, dropped or kept.

Pure. The rule book calls these for an endpoint that has new ops; the search and its evidence are in `rule_search`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

import msgspec

from sidecar.analysis.e_values import BLOCK, Table, bet, complete, difference_interval
from sidecar.analysis.rule_borders import Border, Moved, borders_kept, borders_of, moved, place, same_border, told
from sidecar.analysis.rule_choice import ENOUGH, MAX_RULES, Ground, Weighed, choose, needed
from sidecar.analysis.rule_counts import Condition, Sheet, Together
from sidecar.analysis.rule_evidence import SEGMENT
from sidecar.analysis.rule_prior import Prior
from sidecar.analysis.rule_search import Snapshot, gain_beyond, snapshot, table, usable

_LOOK_AGAIN, _LOOK_LATE = 1 / 24, 1 / 8  # as many new ops, as a part of those there were, for a look at what leads
_SEARCH_AGAIN, _SEARCH_SOON, _SEARCH_LATE = (
    1 / 5,
    1 / 12,
    1 / 3,
)  # and for a search: where something shows, and where rules stand
_CHECK_AGAIN = 16  # new ops, for rules to be held against them
_CONTRADICTED = 5.0
_DOUBT = 0.25  # by so much a rule's difference is taken to be smaller than it looked when it was found
_EXPLAINED_AWAY, _WOULD_SHOW = 3.0, 6.0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """At *endpoint*, ops that meet all *conditions* succeed at another rate than the others do.

    *n* ops met them, *successes* of these succeeded; *others* did not. *low* and *high* bound the difference of the
    two rates, whenever one looks. *log_e* is ln of the e-value that made it a rule; *since* the time of its first
    report, *seen* that of the last op counted. *moved* are the cuts that are told elsewhere than where they were
    tested: counts, rates and evidence are of the *conditions*.
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

    @property
    def told(self) -> Together:
        """The conditions as they are told: with cuts where the numbers beside them say."""
        return self.as_told(self.conditions)

    def as_told(self, conditions: Iterable[Condition]) -> Together:
        """*conditions* with the rule's cuts where they are told."""
        return told(conditions, self.moved)

    @property
    def rate(self) -> float:
        """Of the ops that met the conditions."""
        return self.successes / self.n if self.n else 0.0

    @property
    def other_rate(self) -> float:
        """Of the ops that did not."""
        return self.other_successes / self.others if self.others else 0.0

    def text(self) -> str:
        """`WHEN state=NV, certified=true succeeds 97 % (n=120), without it 11 % (n=45)`."""
        when = ", ".join(condition.text() for condition in self.told)
        return (
            f"WHEN {when} succeeds {100 * self.rate:.0f} % (n={self.n}), "
            f"without it {100 * self.other_rate:.0f} % (n={self.others})"
        )


class Standing(msgspec.Struct):
    """A rule, what was counted for it in earlier sheets, and how far the ops since speak against it."""

    rule: Rule
    before: tuple[int, int, int, int] = (0, 0, 0, 0)
    against: float = 0.0


class EndpointRules(msgspec.Struct, omit_defaults=True):
    """One endpoint: its sheet, and its rules. *earlier* rules were found in an earlier sheet."""

    endpoint: str
    number: int
    last_seen: str
    sheet: Sheet
    restart: int = 0
    looked: int = 0  # ops of the sheet at the last look
    searched: int = 0  # ops of the sheet at the last search
    searches: int = 0
    checked: int = 0  # ops of the sheet that the rules were last held against
    learned: int = 0  # ops of the sheet when it was last come by
    held: float = 0.0  # ln of what all bets of this sheet hold together, as of the last look
    most: float = 0.0  # and of the most that they ever held
    suspects: list[Together] = []  # conjunctions that were named before the sheet began
    leading: list[Together] = []  # those that hold most, as of the last search
    earlier: list[Standing] = []
    found: list[Standing] = []
    fallen: list[tuple[Condition, ...]] = []  # conjunctions that once made a rule and were contradicted, the last ones
    borders: list[Border] = []  # of the rules that cut a number, and of what leads


def begin_anew(row: EndpointRules, dropped: Sequence[Together] = ()) -> None:
    """A new sheet, which takes its own share of the error allowed; what holds is taken along with its counts.

    The conjunctions *dropped* just now are suspects: where a rule stopped holding, its reverse may hold.
    """
    row.earlier = [*row.earlier, *row.found][:MAX_RULES]
    for each in row.earlier:
        rule = each.rule
        each.before = (rule.n, rule.successes, rule.others, rule.other_successes)
    row.found = []
    row.looked = row.searched = row.searches = row.checked = row.learned = 0
    kept = [*dropped, *(standing.rule.conditions for standing in row.earlier)]
    row.sheet = row.sheet.begin(each for together in kept for each in together)
    row.borders = borders_kept(row.borders, (each.rule.conditions for each in row.earlier))
    row.held, row.most, row.leading, row.suspects = 0.0, 0.0, [], list(dict.fromkeys(dropped))
    row.restart += 1


def drop_contradicted(row: EndpointRules) -> int:
    """Bring the rules up to date; drop those that the ops since the last time speak against. How many those are."""
    ops = row.sheet.ops
    if not (row.earlier or row.found) or (ops - row.checked < _CHECK_AGAIN and not row.sheet.is_full):
        return 0
    world = snapshot(row.sheet, ops)
    gone = [each for each in (*row.earlier, *row.found) if not _holds(each, world, row)]
    row.earlier = [each for each in row.earlier if each not in gone]
    row.found = [each for each in row.found if each not in gone]
    row.fallen = [*row.fallen, *(each.rule.conditions for each in gone)][-MAX_RULES:]
    row.checked = ops
    return len(gone)


def is_due(row: EndpointRules) -> bool:
    """Whether there are enough new ops to look again. Evidence holds whenever one looks: this only saves work."""
    ops = complete(row.sheet.ops)
    part = _LOOK_LATE if row.found else _LOOK_AGAIN
    return ops - row.looked >= max(BLOCK, row.looked * part) or _is_search_due(row, ops)


def _is_search_due(row: EndpointRules, ops: int) -> bool:
    part = _SEARCH_LATE if row.found else _SEARCH_SOON if row.held > 0 else _SEARCH_AGAIN
    return ops - row.searched >= (BLOCK if row.sheet.is_full else max(BLOCK, row.searched * part))


def find(row: EndpointRules, world: Snapshot, log_alpha: float, most_borders: int) -> Generator[None, None, None]:
    """Put the rules that the ops up to *world* prove in *row*, beside earlier rules.

    Earlier rules that it explains away go.
    """
    search = _is_search_due(row, world.ops)
    row.looked = world.ops
    yield from place(row.borders, world, _with_borders(row))
    prior = Prior(world.bits, row.suspects)
    ground = Ground(world, usable(world), prior, _within(row, world), row.borders)
    chosen = yield from _chosen(row, ground, log_alpha, search=search)
    if chosen and not row.found and not search:  # what leads is proven; something else may fit better by now
        search = True
        chosen = yield from _chosen(row, ground, log_alpha, search=True)
    if search:
        row.searched, row.searches = world.ops, row.searches + 1
    before = {each.rule.conditions: each for each in row.found}
    row.found = [_standing(row, world, each, before.get(each.together)) for each in chosen]
    row.earlier = [each for each in row.earlier if not _explained_away(each, row, world)]
    row.borders = borders_of(row.borders, world, _with_borders(row), most_borders)


def _with_borders(row: EndpointRules) -> list[Together]:
    """Whose cuts are looked at more closely: rules, and what is about to be one."""
    about_to = row.leading[:1] if row.held > 0 else []
    return [*(each.rule.conditions for each in (*row.earlier, *row.found)), *about_to]


def _within(row: EndpointRules, world: Snapshot) -> int:
    """The ops to search: all of them or, every other time, the later part; what begins late is lost among all."""
    late = world.ops // 2 // SEGMENT * SEGMENT if row.searches % 2 else 0
    return world.every >> late << late


def _chosen(
    row: EndpointRules, ground: Ground, log_alpha: float, *, search: bool
) -> Generator[None, None, list[Weighed]]:
    """The rules of the sheet, each beside those before it; none as long as all bets do not prove that there is one."""
    known = [each.rule.conditions for each in row.earlier]
    remembered = [*row.leading, *row.suspects, *(each.rule.conditions for each in row.found)]
    choice = yield from choose(ground, known, remembered, search=search)
    row.leading, row.held, row.most = choice.leading, max(choice.log_all, 0.0), max(row.most, choice.log_all)
    is_proven = row.most >= -log_alpha and choice.log_all >= 0  # once, and not refuted since
    chosen: list[Weighed] = []
    while is_proven and choice.best is not None and len(known) + len(chosen) < MAX_RULES:
        chosen.append(_as_it_stands(row, ground.world, choice.best))
        beside = [*known, *(each.together for each in chosen)]
        choice = yield from choose(ground, beside, remembered, search=search)
        is_proven = choice.log_all >= ENOUGH
    return needed(ground, chosen, known)


def _as_it_stands(row: EndpointRules, world: Snapshot, best: Weighed) -> Weighed:
    """*best*, or the rule that has its cut at the next cut point, where that is told for certain: they are one."""
    for each in row.found:
        together, bits = each.rule.conditions, world.of(each.rule.conditions)
        if bits is not None and same_border(row.borders, together, best.together):
            return best._replace(together=together, log_e=each.rule.log_e, bits=bits)
    return best


def _standing(row: EndpointRules, world: Snapshot, each: Weighed, before: Standing | None) -> Standing:
    since = before.rule.since if before else row.last_seen
    rule = _rule(row, each.together, table(world, each.bits), each.log_e, since)
    return Standing(rule, against=before.against if before else 0.0)


def _rule(row: EndpointRules, together: tuple[Condition, ...], counted: Table, log_e: float, since: str) -> Rule:
    low, high = difference_interval(counted)
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
        moved=moved(row.borders, together),
    )


def _holds(each: Standing, world: Snapshot, row: EndpointRules) -> bool:
    """Bring *each* up to date with the ops since the last look; False if they speak against it."""
    bits = world.of(each.rule.conditions)
    if bits is None:
        return True
    new = table(world, bits, world.every & ~((1 << row.checked) - 1))
    each.against = max(0.0, each.against - bet(new, *_rates(each.rule)))
    if each.against >= _CONTRADICTED:
        return False
    counted = Table(*(a + b for a, b in zip(each.before, table(world, bits), strict=True)))
    each.rule = _rule(row, each.rule.conditions, counted, each.rule.log_e, each.rule.since)
    return True


def _rates(rule: Rule) -> tuple[float, float]:
    """The rule's two rates, drawn together a little: those of a rule that was just found look too far apart."""
    rate, other = (rule.successes + 0.5) / (rule.n + 1), (rule.other_successes + 0.5) / (rule.others + 1)
    middle = (rate + other) / 2
    return middle + (1 - _DOUBT) * (rate - middle), middle + (1 - _DOUBT) * (other - middle)


def _explained_away(each: Standing, row: EndpointRules, world: Snapshot) -> bool:
    """Whether this sheet would show the rule, but for those found in it, which show it better."""
    bits = world.of(each.rule.conditions)
    if bits is None or not row.found or gain_beyond(world, bits, []) < _WOULD_SHOW:
        return False
    others = [one for one in (*row.earlier, *row.found) if one is not each]
    explained = [found for one in others if (found := world.of(one.rule.conditions)) is not None]
    return gain_beyond(world, bits, explained) < _EXPLAINED_AWAY


def drop_unseen(row: EndpointRules, world: Snapshot) -> None:
    """A rule whose conditions a whole sheet of ops never met says nothing about the world as it is."""
    row.earlier = [each for each in row.earlier if world.of(each.rule.conditions) != 0]
