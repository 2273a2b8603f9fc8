"""Evidence that may be looked at after every op: betting against "these two rates are the same".

Pure arithmetic on counts. Ops are taken in blocks; of a block it is known how many ops met a condition and how many
succeeded, and, were the two unrelated, every way to put the successes among the ops would be as likely (Fisher's
hypergeometric law, whatever the common rate, which may differ from block to block). A bet on some odds ratio
multiplies, block by block, how much likelier the split is under these odds; where nothing is to be found no such
product is expected to grow, so it passes 1/a with probability a at most, ever (Ville). Bets on several odds, and on
several beginnings, are mixed: a mixture is a bet again (Robbins, 1970). Shares of the error allowed are handed out
over open-ended lists: of endpoints, and of an endpoint's restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import comb, exp, inf, lgamma, log
from typing import Final, NamedTuple

ALPHA: Final = 0.05  # of all runs in a world without rules, those that ever report one
MAX_OPS: Final = 4096
BLOCK: Final = 32  # ops: fewer cost evidence (one part in so many), more make it wait
_FIRST_ENDPOINT, _FIRST_SHEET = 0.7, 0.8  # shares of the error: what there is for certain gets most
_X_LOG_X = (0.0, *(n * log(n) for n in range(1, MAX_OPS + 1)))
_LOG_ODDS = ((0.8, 0.25), (1.4, 0.35), (2.2, 0.25), (3.4, 0.15))  # ln of the odds ratios bet on, and their shares
ODDS: Final = tuple(sign * size for size, _ in _LOG_ODDS for sign in (1, -1))
_BETTER, _WORSE = 0.3, 0.7  # shares of "where it is met more succeed", and fewer: failures are what is rare
_STAKES = tuple(log(share * part) for _, share in _LOG_ODDS for part in (_BETTER, _WORSE))


class Table(NamedTuple):
    """How many ops met a condition, and how many did not; of each, how many succeeded."""

    n: int
    successes: int
    others: int
    other_successes: int


def complete(ops: int) -> int:
    """How many of *ops* are in blocks that are complete. Evidence is of these alone."""
    return ops - ops % BLOCK


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


@lru_cache(maxsize=4096)  # of the some 12,000 shapes of a block few are met
def log_expected(n: int, met: int, successes: int) -> tuple[float, ...]:
    """For each of `ODDS`, ln of what odds ** (successes among the ops that met) is expected to be if all is chance.

    Of a block of *n* ops *met* met the condition and *successes* succeeded.
    """
    ways = comb(n, met)
    chances = [
        (good, comb(successes, good) * comb(n - successes, met - good) / ways)
        for good in range(max(0, met + successes - n), min(met, successes) + 1)
    ]
    return tuple(log(sum(chance * exp(odds * good) for good, chance in chances)) for odds in ODDS)


def mixed(logs: Iterable[float]) -> float:
    """Ln of what the bets on all `ODDS` hold together, from ln of the factor of each."""
    return log_sum([stake + each for stake, each in zip(_STAKES, logs, strict=True)])


def log_sum(logs: Sequence[float]) -> float:
    """Ln of the sum of what *logs* are the logarithms of."""
    most = max(logs)
    return most + log(sum(exp(each - most) for each in logs))


def log_share(number: int) -> float:
    """The logarithm of the share of endpoint *number* (from 0). All of them sum to 1."""
    level = (number + 1).bit_length() - 1  # 1, 2, 4, 8 … endpoints share alike
    return log(_FIRST_ENDPOINT if not level else (1 - _FIRST_ENDPOINT) / (level * (level + 1))) - level * log(2)


def log_restart_share(restart: int) -> float:
    """The logarithm of the share of a restart (from 0); they sum to 1 over all that will ever be."""
    return log(_FIRST_SHEET if not restart else (1 - _FIRST_SHEET) / (restart * (restart + 1)))


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
