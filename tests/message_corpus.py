"""Failure messages with known causes, and scores of how well a grouping agrees with them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from sidecar.analysis.incidents import IncidentBook
from tests.fakes import an_op

MESSAGES = Path(__file__).parent / "data" / "messages"
RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tau_bench_airline_gpt4o.jsonl"
TRUE_CAUSES = (  # refusals by the airline's rules; the cause is this text and the tool
    "total price is",
    "not enough balance in payment method",
    "not enough seats",
    "not available on date",
    "gift card balance is not enough",
    "payment method not found",
    "certificate cannot be used",
)


class Failure(NamedTuple):
    endpoint: str
    message: str
    cause: Hashable


class Scores(NamedTuple):
    """Agreement, 1 is best. *homogeneity*: no incident has two causes; *completeness*: no cause has two incidents."""

    homogeneity: float
    completeness: float

    @property
    def v_measure(self) -> float:
        """Their harmonic mean."""
        return 2 * self.homogeneity * self.completeness / (self.homogeneity + self.completeness)


def corpus(name: str, label: str = "cause") -> list[Failure]:
    """The messages of a file in `tests/data/messages`, with the labels of *label*: `cause` or `reader`."""
    rows = [json.loads(line) for line in (MESSAGES / name).read_text().splitlines()]
    return [Failure(row["endpoint"], row["message"], row[label]) for row in rows]


def recorded_failures() -> list[Failure]:
    """Failed calls of the recorded airline agent (tau-bench)."""
    failures = []
    for line in RECORDED.read_text().splitlines():
        call = json.loads(line)
        if not call["success"]:
            (cause,) = (each for each in TRUE_CAUSES if each in call["result"])
            failures.append(Failure(call["tool"], call["result"], (call["tool"], cause)))
    return failures


def incidents(failures: Sequence[Failure]) -> list[Hashable]:
    """The fingerprint of each failure's incident, after all failures were consumed."""
    book, keys = IncidentBook(), []
    for failure in failures:
        book.consume(an_op(success=False, endpoint=failure.endpoint, error=failure.message))
        keys.append(book.incidents()[0].fingerprint)
    found = [incident.fingerprint for key in keys if (incident := book.get(key)) is not None]
    assert sum(incident.count for incident in book.incidents()) == len(failures) == len(found)
    return list(found)


def scores(failures: Sequence[Failure], group: Callable[[Sequence[Failure]], list[Hashable]] = incidents) -> Scores:
    """How well groups and causes agree."""
    return agreement([failure.cause for failure in failures], group(failures))


def agreement(causes: Sequence[Hashable], found: Sequence[Hashable]) -> Scores:
    """The scores of two labellings. Source: Rosenberg and Hirschberg, "V-measure", 2007."""
    both = _entropy(list(zip(causes, found, strict=True)))
    shared = _entropy(causes) + _entropy(found) - both
    return Scores(shared / _entropy(causes), shared / _entropy(found))


def adjusted_rand(left: Sequence[Hashable], right: Sequence[Hashable]) -> float:
    """Adjusted Rand index of two labellings: 1 is equal, 0 as by chance. Source: Hubert and Arabie, 1985."""
    both = _pairs(list(zip(left, right, strict=True)))
    by_left, by_right, every = _pairs(left), _pairs(right), math.comb(len(left), 2)
    chance = by_left * by_right / every
    return (both - chance) / ((by_left + by_right) / 2 - chance)


def _pairs(labels: Sequence[Hashable]) -> int:
    return sum(math.comb(count, 2) for count in Counter(labels).values())


def _entropy(labels: Sequence[Hashable]) -> float:
    return -sum(n / len(labels) * math.log(n / len(labels)) for n in Counter(labels).values())
