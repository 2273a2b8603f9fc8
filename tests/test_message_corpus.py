"""Real messages fall into their true causes: one incident each, and none of two."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from sidecar.analysis.incidents import IncidentBook
from tests.fakes import an_op

MESSAGES = Path(__file__).parent / "data" / "messages"
RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tau_bench_airline_gpt4o.jsonl"
TRUE_CAUSES = (  # what the airline's rules refuse; the tool tells where
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
    """1 is best. *homogeneity*: no incident has two causes; *completeness*: no cause has two incidents."""

    homogeneity: float
    completeness: float


def scores(failures: Sequence[Failure]) -> Scores:
    """How well incidents and causes agree (Rosenberg and Hirschberg, "V-measure", 2007)."""
    book, keys = IncidentBook(), []
    for failure in failures:
        book.consume(an_op(success=False, endpoint=failure.endpoint, error=failure.message))
        keys.append(book.incidents()[0].fingerprint)
    found = [incident.fingerprint for key in keys if (incident := book.get(key)) is not None]
    causes = [failure.cause for failure in failures]
    assert sum(incident.count for incident in book.incidents()) == len(failures) == len(found)
    both = _entropy(list(zip(causes, found, strict=True)))
    shared = _entropy(causes) + _entropy(found) - both
    return Scores(shared / _entropy(causes), shared / _entropy(found))


def _entropy(labels: Sequence[Hashable]) -> float:
    return -sum(n / len(labels) * math.log(n / len(labels)) for n in Counter(labels).values())


def corpus(name: str) -> list[Failure]:
    rows = [json.loads(line) for line in (MESSAGES / name).read_text().splitlines()]
    return [Failure(row["endpoint"], row["message"], row["cause"]) for row in rows]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded tool calls are not beside the repository")
def test_each_true_cause_of_the_recorded_failures_is_one_incident() -> None:
    """38 failures: none is split by ids, amounts, dates or flights, and none of two causes come together."""
    failures = []
    for line in RECORDED.read_text().splitlines():
        call = json.loads(line)
        if not call["success"]:
            (cause,) = (each for each in TRUE_CAUSES if each in call["result"])
            failures.append(Failure(call["tool"], call["result"], (call["tool"], cause)))
    found = scores(failures)
    assert len(failures) == 38
    assert len({failure.cause for failure in failures}) == 9
    assert found == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize(("name", "size"), [("tuning.jsonl", 1410), ("held_out.jsonl", 787)])
def test_the_messages_of_many_programs_fall_into_their_causes(name: str, size: int) -> None:
    """At least 0.95 both ways, also for causes that no mask was made for."""
    failures = corpus(name)
    found = scores(failures)
    assert len(set(failures)) == len(failures) == size
    assert min(found) >= 0.95, found


def test_the_measure_tells_splits_and_mixtures() -> None:
    """One cause in two incidents costs completeness, two in one homogeneity; to put all in one is worth nothing."""
    split = [Failure("/a", "no seat here", 1), Failure("/b", "no seat here", 1), Failure("/c", "closed", 2)]
    mixed = [Failure("/a", "no seat here", 1), Failure("/a", "no seat here", 2), Failure("/c", "closed", 3)]
    assert scores(split) == pytest.approx((1.0, 0.579), abs=0.001)
    assert scores(mixed) == pytest.approx((0.579, 1.0), abs=0.001)
