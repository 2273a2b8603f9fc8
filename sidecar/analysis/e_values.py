"""E-values for "these two success rates differ" that may be checked after every op. Pure arithmetic on counts.

Null hypothesis: whether an op meets a condition is unrelated to its success. Ops come in blocks. Given how many ops of
a block met the condition and how many succeeded, the null makes every assignment of successes to ops equally likely
(Fisher's hypergeometric law), whatever the common rate, which may differ between blocks. A bet on an odds ratio
multiplies, over the blocks, the likelihood ratio of that odds ratio to the null. Under the null the product is a test
martingale: it ever exceeds 1/a with probability a at most (Ville). Bets on several odds ratios and on several starting
points are mixed; a mixture is a test martingale again (Robbins, 1970). Alpha is spent over two open-ended lists:
endpoints, and the restarts of an endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import comb, exp, inf, lgamma, log
from typing import Final, NamedTuple

ALPHA: Final = 0.05  # probability that a run without any rule ever reports one
MAX_OPS: Final = 4096
BLOCK: Final = 32  # ops: smaller blocks lose evidence (one part in so many), larger ones delay it
_FIRST_ENDPOINT, _FIRST_SHEET = 0.7, 0.8  # shares of alpha: what certainly exists gets most
_X_LOG_X = (0.0, *(n * log(n) for n in range(1, MAX_OPS + 1)))
_LOG_ODDS = ((0.8, 0.25), (1.4, 0.35), (2.2, 0.25), (3.4, 0.15))  # (ln of the odds ratio bet on, its share)
ODDS: Final = tuple(sign * size for size, _ in _LOG_ODDS for sign in (1, -1))
_BETTER, _WORSE = 0.3, 0.7  # shares of "more succeed where it is met" and of "fewer": failures are the rare outcome
_STAKES = tuple(log(share * part) for _, share in _LOG_ODDS for part in (_BETTER, _WORSE))


class Table(NamedTuple):
    """A 2×2 table: ops that met a condition, and their successes; other ops, and theirs."""

    n: int
    successes: int
    others: int
    other_successes: int


def complete(ops: int) -> int:
    """The number of *ops* in complete blocks; evidence uses only these."""
    return ops - ops % BLOCK


def likelihood_gain(n: int, successes: int, others: int, other_successes: int) -> float:
    """Ln of the maximum likelihood ratio of two rates to one. Not evidence by itself: it is never negative."""
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
    """Ln of the factor that *block* contributes to a bet on the two rates, each strictly between 0 and 1."""
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


@lru_cache(maxsize=4096)  # a block has some 12,000 shapes, of which few occur
def log_expected(n: int, met: int, successes: int) -> tuple[float, ...]:
    """For each of `ODDS`, ln of the expectation, under the null, of odds ** (successes among the ops that met).

    In the block of *n* ops, *met* ops met the condition and *successes* ops succeeded.
    """
    ways = comb(n, met)
    chances = [
        (good, comb(successes, good) * comb(n - successes, met - good) / ways)
        for good in range(max(0, met + successes - n), min(met, successes) + 1)
    ]
    return tuple(log(sum(chance * exp(odds * good) for good, chance in chances)) for odds in ODDS)


def mixed(logs: Iterable[float]) -> float:
    """Ln of the mixture of the bets on all `ODDS`, from ln of each bet's factor."""
    return log_sum([stake + each for stake, each in zip(_STAKES, logs, strict=True)])


def log_sum(logs: Sequence[float]) -> float:
    """Ln of the sum of exp(each) over *logs*."""
    most = max(logs)
    return most + log(sum(exp(each - most) for each in logs))


def log_share(number: int) -> float:
    """Ln of alpha's share for endpoint *number* (from 0). The shares of all endpoints sum to 1."""
    level = (number + 1).bit_length() - 1  # groups of 1, 2, 4, 8 … endpoints; equal shares within a group
    return log(_FIRST_ENDPOINT if not level else (1 - _FIRST_ENDPOINT) / (level * (level + 1))) - level * log(2)


def log_restart_share(restart: int) -> float:
    """Ln of alpha's share for a restart (from 0). The shares of all restarts sum to 1."""
    return log(_FIRST_SHEET if not restart else (1 - _FIRST_SHEET) / (restart * (restart + 1)))


def rate_interval(successes: int, n: int, alpha: float = ALPHA) -> tuple[float, float]:
    """A confidence sequence for a rate: over all n together, it misses the rate with probability *alpha* at most.

    Contains all rates that the Beta(1/2, 1/2) mixture of Robbins (1970) does not beat by 1/alpha.
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
    """A confidence sequence for the rate where the condition is met minus the rate where it is not."""
    low, high = rate_interval(table.successes, table.n, alpha / 2)
    other_low, other_high = rate_interval(table.other_successes, table.others, alpha / 2)
    return low - other_high, high - other_low
