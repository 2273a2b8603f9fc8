"""The rules of one endpoint over time: found in a sheet of ops, held against the ops that follow, dropped or kept.

Pure. The rule book calls these for an endpoint that has new ops; the search and its evidence are in `rule_search`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import msgspec

from sidecar.analysis.e_values import Table, bet, difference_interval
from sidecar.analysis.rule_bets import Bet, advance, first_bets, proven
from sidecar.analysis.rule_counts import Condition, Sheet
from sidecar.analysis.rule_search import (
    MAX_RULES,
    Proven,
    Snapshot,
    Together,
    gain_beyond,
    minimal,
    snapshot,
    table,
    usable,
)

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
    looked: int = 0  # ops of the sheet at the last look
    checked: int = 0  # ops of the sheet that the rules were last held against
    learned: int = 0  # ops of the sheet when it was last come by
    bets: list[Bet] = []  # on conjunctions of this sheet
    earlier: list[Standing] = []
    found: list[Standing] = []
    fallen: list[tuple[Condition, ...]] = []  # conjunctions that once made a rule and were contradicted, the last ones


def begin_anew(row: EndpointRules, dropped: Sequence[Together] = ()) -> None:
    """A new sheet, which takes its own share of the error allowed; what holds is taken along with its counts.

    The first bets are on the conjunctions *dropped* just now: where a rule stopped holding, its reverse may hold.
    """
    row.earlier = [*row.earlier, *row.found][:MAX_RULES]
    for each in row.earlier:
        rule = each.rule
        each.before = (rule.n, rule.successes, rule.others, rule.other_successes)
    row.found = []
    row.looked = row.checked = row.learned = 0
    kept = [*dropped, *(standing.rule.conditions for standing in row.earlier)]
    row.sheet = row.sheet.begin(each for together in kept for each in together)
    row.bets = first_bets(dropped)
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


def find(row: EndpointRules, world: Snapshot, log_alpha: float) -> Generator[None, None, None]:
    """Bring the bets on the ops up to *world* up to date; put what they prove in *row*, beside earlier rules.

    Earlier rules that it explains away go.
    """
    row.bets = yield from advance(row.bets, row.sheet, row.looked, world)
    found = proven(row.bets, log_alpha)
    if not found and not row.found:
        return
    known = [each.rule.conditions for each in row.earlier]
    chosen = yield from minimal(world, found, len(usable(world)), known, log_alpha)
    before = {each.rule.conditions: each for each in row.found}
    row.found = [_standing(row, world, each, before.get(each.together)) for each in chosen]
    row.earlier = [each for each in row.earlier if not _explained_away(each, row, world)]


def _standing(row: EndpointRules, world: Snapshot, each: Proven, before: Standing | None) -> Standing:
    bits = world.of(each.together) or 0
    since = before.rule.since if before else row.last_seen
    rule = _rule(row, each.together, table(world, bits), each.log_e, since)
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
    new = table(world, bits, ((1 << world.ops) - 1) & ~((1 << row.checked) - 1))
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
