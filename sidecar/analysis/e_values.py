"""Evidence that may be looked at after every op: betting against "these two rates are the same".

Pure arithmetic on counts. A bet multiplies, block of ops by block, how much better two rates fit than their mixture
does; under equal rates no such product is expected to grow, so it passes 1/a with probability a at most, ever
(Ville). The block's factor is that of Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample
tests that allow for optional stopping" (2024): it holds for any common rate, which may differ from block to block,
and for any number of ops on each side, in whatever order they came. Shares of the error allowed are handed out over
an open-ended list (endpoints, restarts) and, within a sheet of ops, over the rounds in which bets are placed and
their ranks. A round bets on what fitted best so far, and on the ops that follow alone, so what is staked on it need
not be shared with all that could have been tried. Among the bets of one endpoint e-BH decides, in its
self-consistent form (Wang and Ramdas, "False discovery rate control with e-values", 2022): redundant candidates may
be left out first, and do not help the others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import exp, inf, lgamma, log
from typing import Final, NamedTuple

ALPHA: Final = 0.05  # of all runs in a world without rules, those that ever report one
MAX_OPS: Final = 2048
_SHRINK = 6.0  # ops' worth of doubt in a rate that is bet on
_TRUST = (1.0, 0.5)  # in the difference seen so far: what fitted best among many looks better than it is
_DOUBT = 4.0  # ops' worth of doubt in the overall rate, which is taken to be `_OVERALL` before anything is known
_OVERALL = 0.8
_FIRST_ENDPOINT, _FIRST_SHEET = 0.7, 0.6  # shares of the error: what there is for certain gets most
_X_LOG_X = (0.0, *(n * log(n) for n in range(1, MAX_OPS + 1)))
BLOCK_ENDS: Final = (*range(16, 512, 16), *range(512, 1024, 32), *range(1024, MAX_OPS + 1, 64))  # counted in ops
ROUNDS: Final = (32, 48, 64, 96, 128, 176, 256, 352, 496, 704, 960, 1344, 1856)  # ops before bets are placed
RANKS: Final = 24  # bets of a round
_ALL_RANKS = sum(1 / (rank + 1) for rank in range(RANKS))


class Table(NamedTuple):
    """How many ops met a condition, and how many did not; of each, how many succeeded."""

    n: int
    successes: int
    others: int
    other_successes: int


def complete(ops: int) -> int:
    """How many of *ops* are in blocks that are complete. Evidence is of these alone."""
    at = bisect_right(BLOCK_ENDS, ops)
    return BLOCK_ENDS[at - 1] if at else 0


def likelihood_gain(n: int, successes: int, others: int, other_successes: int) -> float:
    """Ln of how much better two rates fit than one does, at their best. No evidence by itself: it always grows."""
    x = _X_LOG_X
    total, all_successes = n + others, successes + other_successes
    return (
        x[successes]
        + x[n - successes]
        - x[n]
        + x[other_successes]
        + x[others - other_successes]
        - x[others]
        - x[all_successes]
        - x[total - all_successes]
        + x[total]
    )


def bet(block: Table, rate: float, other_rate: float) -> float:
    """Ln of the factor of *block* for a bet on the two rates, each strictly between 0 and 1."""
    n, successes, others, other_successes = block
    if not n or not others:
        return 0.0
    mixed = (n * rate + others * other_rate) / (n + others)
    return (
        successes * log(rate / mixed)
        + (n - successes) * log((1 - rate) / (1 - mixed))
        + other_successes * log(other_rate / mixed)
        + (others - other_successes) * log((1 - other_rate) / (1 - mixed))
    )


def settle(logs: list[float], seen: Table, block: Table) -> None:
    """Multiply what each of a bet's strategies holds (ln, changed in place) by its factor on *block*.

    Its rates are those *seen* before the block, their difference taken more or less at its word.
    """
    if not block.n or not block.others:
        return
    overall = (seen.successes + seen.other_successes + _DOUBT * _OVERALL) / (seen.n + seen.others + _DOUBT)
    rate = (seen.successes + _SHRINK * overall) / (seen.n + _SHRINK)
    other_rate = (seen.other_successes + _SHRINK * overall) / (seen.others + _SHRINK)
    for at, trust in enumerate(_TRUST):
        trusted = overall + trust * (rate - overall), overall + trust * (other_rate - overall)
        logs[at] += bet(block, *map(_inside, trusted))


def stake(logs: Sequence[float], log_stake: float) -> list[float]:
    """What the strategies of a bet hold (ln) when *log_stake* (ln) is added in equal parts; [] is no bet as yet."""
    part = log_stake - log(len(_TRUST))
    return [log_sum((held, part)) for held in logs] or [part] * len(_TRUST)


def log_sum(logs: Sequence[float]) -> float:
    """Ln of the sum of what *logs* are the logarithms of."""
    most = max(logs)
    return most + log(sum(exp(each - most) for each in logs))


def _inside(rate: float) -> float:
    return min(max(rate, 1e-6), 1 - 1e-6)


def log_share(number: int) -> float:
    """The logarithm of the share of endpoint *number* (from 0). All of them sum to 1."""
    level = (number + 1).bit_length() - 1  # 1, 2, 4, 8 … endpoints share alike
    return log(_FIRST_ENDPOINT if not level else (1 - _FIRST_ENDPOINT) / (level * (level + 1))) - level * log(2)


def log_restart_share(restart: int) -> float:
    """The logarithm of the share of a restart (from 0); they sum to 1 over all that will ever be."""
    return log(_FIRST_SHEET if not restart else (1 - _FIRST_SHEET) / (restart * (restart + 1)))


def log_round_share() -> float:
    """Ln of the share of one of a sheet's rounds: those at `ROUNDS`, and one before its first op."""
    return -log(len(ROUNDS) + 1)


def log_stake(rank: int) -> float:
    """Ln of the share of the bet of *rank* (from 0) in a round; over all ranks they sum to the round's at most."""
    return log_round_share() - log((rank + 1) * _ALL_RANKS)


def stands(weighted: float, rank: int, log_alpha: float) -> bool:
    """Whether ln of share × e-value is enough for the rule kept as number *rank* (from 1); *log_alpha* ≤ 0.

    The first has to stand against everything that could be tried; each further one makes the next a little easier.
    """
    return weighted + log(rank) >= -log_alpha


def rate_interval(successes: int, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """A time-uniform interval of a rate: at whatever n one looks, it misses with probability *alpha* at most.

    By the Beta(1/2, 1/2) mixture of Robbins (1970): all rates that the mixture does not beat by 1/alpha.
    """
    if not n:
        return 0.0, 1.0
    failures = n - successes
    mixture = lgamma(successes + 0.5) + lgamma(failures + 0.5) - lgamma(n + 1) - 2 * lgamma(0.5)
    least = mixture + log(alpha)

    def fits(rate: float) -> bool:
        ends = (successes * log(rate) if successes else 0.0) if rate > 0 else (-inf if successes else 0.0)
        return ends + (failures * log(1 - rate) if failures and rate < 1 else (-inf if failures else 0.0)) >= least

    best = successes / n
    return _edge(fits, best, 0.0), _edge(fits, best, 1.0)


def _edge(fits: Callable[[float], bool], inside: float, outside: float) -> float:
    if fits(outside):
        return outside
    for _ in range(30):
        middle = (inside + outside) / 2
        if fits(middle):
            inside = middle
        else:
            outside = middle
    return outside


def difference_interval(table: Table, alpha: float = ALPHA) -> tuple[float, float]:
    """A time-uniform interval of the rate where the condition is met minus the rate where it is not."""
    low, high = rate_interval(table.successes, table.n, alpha / 2)
    other_low, other_high = rate_interval(table.other_successes, table.others, alpha / 2)
    return low - other_high, high - other_low
