"""The rules of one endpoint over time: found in a sheet of ops, held against the ops that follow, dropped or kept.

Pure. The rule book calls these for an endpoint that has new ops; the search and its evidence are in `rule_search`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from math import log

import msgspec

from sidecar.analysis.e_values import ALPHA, BLOCK, Table, bet, complete, difference_interval
from sidecar.analysis.rule_choice import MAX_RULES, Weighed, choose, needed
from sidecar.analysis.rule_counts import Condition, Sheet, Together
from sidecar.analysis.rule_prior import Prior
from sidecar.analysis.rule_search import Snapshot, gain_beyond, snapshot, table, usable

_LOOK_AGAIN = 1 / 12  # as many new ops, as a part of those there were, for another search
_CHECK_AGAIN = 16  # new ops, for rules to be held against them
_CONTRADICTED = 5.0
_DOUBT = 0.25  # by so much a rule's difference is taken to be smaller than it looked when it was found
_EXPLAINED_AWAY, _WOULD_SHOW = 3.0, 6.0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """At *endpoint*, ops that meet all *conditions* succeed at another rate than the others do.

    *n* ops met them, *successes* of these succeeded; *others* did not. *low* and *high* bound the difference of the
    two rates, whenever one looks. *log_e* is ln of the e-value that made it a rule; *since* the time of its first
    report, *seen* that of the last op counted.
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
        when = ", ".join(condition.text() for condition in self.conditions)
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
    looked: int = 0  # ops of the sheet at the last search
    checked: int = 0  # ops of the sheet that the rules were last held against
    learned: int = 0  # ops of the sheet when it was last come by
    most: float = 0.0  # ln of the most that all bets of this sheet held together
    suspects: list[Together] = []  # conjunctions that were named before the sheet began
    leading: list[Together] = []  # those that hold most, as of the last search
    earlier: list[Standing] = []
    found: list[Standing] = []
    fallen: list[tuple[Condition, ...]] = []  # conjunctions that once made a rule and were contradicted, the last ones


def begin_anew(row: EndpointRules, dropped: Sequence[Together] = ()) -> None:
    """A new sheet, which takes its own share of the error allowed; what holds is taken along with its counts.

    The conjunctions *dropped* just now are suspects: where a rule stopped holding, its reverse may hold.
    """
    row.earlier = [*row.earlier, *row.found][:MAX_RULES]
    for each in row.earlier:
        rule = each.rule
        each.before = (rule.n, rule.successes, rule.others, rule.other_successes)
    row.found = []
    row.looked = row.checked = row.learned = 0
    kept = [*dropped, *(standing.rule.conditions for standing in row.earlier)]
    row.sheet = row.sheet.begin(each for together in kept for each in together)
    row.most, row.leading, row.suspects = 0.0, [], list(dict.fromkeys(dropped))
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
    new = complete(row.sheet.ops) - row.looked
    return new >= max(BLOCK, row.looked * _LOOK_AGAIN) or (row.sheet.is_full and new > 0)


def find(row: EndpointRules, world: Snapshot, log_alpha: float) -> Generator[None, None, None]:
    """Put the rules that the ops up to *world* prove in *row*, beside earlier rules.

    Earlier rules that it explains away go.
    """
    chosen = yield from _chosen(row, world, log_alpha)
    before = {each.rule.conditions: each for each in row.found}
    row.found = [_standing(row, world, each, before.get(each.together)) for each in chosen]
    row.earlier = [each for each in row.earlier if not _explained_away(each, row, world)]


def _chosen(row: EndpointRules, world: Snapshot, log_alpha: float) -> Generator[None, None, list[Weighed]]:
    conditions, prior = usable(world), Prior(world.bits, row.suspects)
    known = [each.rule.conditions for each in row.earlier]
    found = [each.rule.conditions for each in row.found]
    chosen: list[Weighed] = []
    while len(known) + len(chosen) < MAX_RULES:
        beside = [*known, *(each.together for each in chosen)]
        choice = yield from choose(world, conditions, prior, beside, found if chosen else [*row.leading, *found])
        if chosen:
            enough = choice.log_all >= -log(ALPHA)  # beside a rule that is proven
        else:
            row.leading, row.most = choice.leading, max(row.most, choice.log_all)
            enough = row.most >= -log_alpha and choice.log_all >= 0  # proven once, and not refuted since
        if not enough or choice.best is None:
            break
        chosen.append(choice.best)
    return needed(world, chosen, prior, known)


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
