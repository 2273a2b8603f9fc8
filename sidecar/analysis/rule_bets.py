"""Bets on conjunctions: placed in rounds on what fitted best until then, settled by the ops that follow.

Pure. Rounds and blocks lie at fixed numbers of ops of a sheet, whenever one looks, so the bets depend on the ops and
their order alone. A conjunction that is chosen again gets a further stake. What a bet holds, it holds of the whole
error allowed: once that is more than the error itself, the conjunction is proven.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from heapq import nlargest
from itertools import pairwise
from math import log
from typing import Final

import msgspec

from sidecar.analysis.e_values import (
    BLOCK_ENDS,
    RANKS,
    ROUNDS,
    Table,
    log_round_share,
    log_stake,
    log_sum,
    settle,
    stake,
    stands,
)
from sidecar.analysis.rule_counts import Sheet
from sidecar.analysis.rule_search import MAX_RULES, Candidate, Proven, Snapshot, Together, candidates, snapshot, usable

MAX_BETS: Final = 64  # of one sheet; those that hold least are given up
_LOST = -25.0  # ln of what a bet holds that is given up
_STEP = 16  # bets settled in a step


class Bet(msgspec.Struct):
    """On *together*: what its strategies hold (ln), what was staked in all (ln), and the most that it ever held."""

    together: Together
    logs: list[float]
    staked: float
    most: float


def advance(bets: Sequence[Bet], sheet: Sheet, since: int, world: Snapshot) -> Generator[None, None, list[Bet]]:
    """The bets after the ops from *since* to the end of *world*: settled, and with those of the rounds on the way."""
    now = list(bets)
    for start, end in pairwise([since, *(each for each in ROUNDS if since < each < world.ops), world.ops]):
        yield from _settled(now, world, start, end)
        if end in ROUNDS and 0 < (world.succeeded & ((1 << end) - 1)).bit_count() < end:
            then = world if end == world.ops else snapshot(sheet, end)
            yield
            found = yield from candidates(then, usable(then))
            now = _placed(now, found)
    return now


def first_bets(together: Sequence[Together]) -> list[Bet]:
    """A round by itself, before there are any ops: on *together*, in equal parts."""
    share = log_round_share() - log(max(len(together), 1))
    return [Bet(each, stake([], share), share, share) for each in dict.fromkeys(together)]


def proven(bets: Iterable[Bet], log_alpha: float) -> list[Proven]:
    """Those that may be rules, the strongest first. *log_alpha*: ln of the error allowed here."""
    found = [Proven(each.together, each.most - each.staked, each.most) for each in bets]
    found = [each for each in found if stands(each.weighted, MAX_RULES, log_alpha)]
    return sorted(found, key=lambda each: -each.weighted)


def _settled(bets: Sequence[Bet], world: Snapshot, start: int, end: int) -> Generator[None, None, None]:
    ends = [start, *(each for each in BLOCK_ENDS if start < each <= end)]
    for number, each in enumerate(bets):
        bits = world.of(each.together)
        if bits is None:
            continue
        seen = _table(world, bits, 0, start)
        for begin, until in pairwise(ends):
            block = _table(world, bits, begin, until)
            settle(each.logs, seen, block)
            each.most = max(each.most, log_sum(each.logs))
            seen = Table(*(a + b for a, b in zip(seen, block, strict=True)))
        if not number % _STEP:
            yield


def _table(world: Snapshot, bits: int, start: int, end: int) -> Table:
    mask = (1 << (end - start)) - 1
    met, good = bits >> start & mask, world.succeeded >> start & mask
    n, successes = met.bit_count(), (met & good).bit_count()
    return Table(n, successes, end - start - n, good.bit_count() - successes)


def _placed(bets: Sequence[Bet], found: Sequence[Candidate]) -> list[Bet]:
    """*bets* with those of a round on the best of *found*; where they are too many, the ones that hold most."""
    known = {each.together: each for each in bets}
    for rank, candidate in enumerate(found[:RANKS]):
        share = log_stake(rank)
        before = known.get(candidate.together)
        if before is None:
            known[candidate.together] = Bet(candidate.together, stake([], share), share, share)
        else:
            before.logs = stake(before.logs, share)
            before.staked = log_sum((before.staked, share))
    return nlargest(MAX_BETS, (each for each in known.values() if _worth(each) > _LOST), key=_worth)


def _worth(each: Bet) -> float:
    """What is proven stays."""
    return each.most if each.most > 0 else log_sum(each.logs)
