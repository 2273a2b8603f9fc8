"""Far slower than usual is news; noise, heavy tails and mixtures are not. Seeded, so that the figures stay the same."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
import pytest

from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.slow_successes import FIRST_BLOCK, LEAST_SLOW, SLOW_MESSAGE, Latency
from tests.fakes import an_op

NOISE: dict[str, Callable[[random.Random], float]] = {
    "log-normal": lambda dice: 200 * dice.lognormvariate(0, 1),
    "log-normal, very wide": lambda dice: 200 * dice.lognormvariate(0, 2),
    "Pareto, infinite variance": lambda dice: 50 * dice.paretovariate(1.2),
    "exponential": lambda dice: dice.expovariate(1 / 300),
    "cached but for 1 in 10": lambda dice: dice.gauss(5, 1) if dice.random() < 0.9 else dice.gauss(2000, 100),
    "cached but for 1 in 100": lambda dice: dice.gauss(5, 1) if dice.random() < 0.99 else dice.gauss(2000, 100),
    "cached but for 1 in 200": lambda dice: dice.gauss(5, 1) if dice.random() < 0.995 else dice.gauss(2000, 100),
}


@pytest.mark.parametrize("name", NOISE)
def test_noise_makes_no_incident(name: str) -> None:
    """100,000 independent calls whose distribution does not change: none is news."""
    dice, latency = random.Random(5), Latency()
    assert sum(latency.is_slow(abs(NOISE[name](dice))) for _ in range(100_000)) == 0


@pytest.mark.parametrize(("factor", "share"), [(20, 1.0), (50, 0.25)])
def test_a_slow_down_is_news_within_a_hundred_calls(factor: float, share: float) -> None:
    """Of all calls or of a quarter of them; after two thousand it is the new normal, and no news any more."""
    dice, latency = random.Random(6), Latency()

    def call(slower: float) -> bool:
        return latency.is_slow(200 * dice.lognormvariate(0, 0.5) * (slower if dice.random() < share else 1))

    assert not any(call(1) for _ in range(3000))
    assert any(call(factor) for _ in range(100))
    for _ in range(2500):
        call(factor)
    assert not any(call(factor) for _ in range(2000))


def test_what_is_fast_is_never_slow_and_little_is_no_distribution() -> None:
    """Below 100 ms nothing is; nor before the first block is full."""
    latency = Latency()
    assert not any(latency.is_slow(1) for _ in range(FIRST_BLOCK - 1))
    assert not any(latency.is_slow(10_000) for _ in range(1))
    fast = Latency()
    assert not any(fast.is_slow(0.5 if number < 1000 else 99) for number in range(1500))


def test_state_is_bounded_and_restored() -> None:
    """Whatever durations are claimed; a restart in between changes nothing."""
    dice, latency = random.Random(7), Latency()
    for number in range(20_000):
        latency.is_slow(dice.choice([0, 0.001, 1e300, 5e6, 10 ** dice.uniform(0, 12)]))
        if number % 1777 == 0:
            assert len(latency.counts) + len(latency.block) <= 2 * 161
            latency = msgspec.json.decode(msgspec.json.encode(latency), type=Latency)


def test_a_row_saved_without_its_block_size_goes_on_as_it_was() -> None:
    """Rows saved by earlier versions have none: it follows from the counts."""
    dice, latency = random.Random(8), Latency()
    for _ in range(2500):
        latency.is_slow(200 * dice.lognormvariate(0, 0.5))
    row = msgspec.json.decode(msgspec.json.encode(latency))
    del row["block_size"]
    assert msgspec.json.decode(msgspec.json.encode(row), type=Latency) == latency


def test_slow_successes_are_one_incident_beside_the_failures() -> None:
    """Of kind `slow`, from the eighth of a hundred on, each with what it took and its trace."""
    book = IncidentBook()
    for number in range(FIRST_BLOCK + 100):
        book.consume(an_op(duration_ms=40 + number % 10))
    assert len(book) == 0
    for number in range(20):
        book.consume(an_op(duration_ms=5000, trace_id=f"{number:032x}", span_id=f"{number:016x}", city="Reno"))
    book.consume(an_op(success=False, error="no seat"))
    slow = next(each for each in book.incidents() if each.kind == "slow")
    assert (slow.message, slow.count, slow.by_city) == (SLOW_MESSAGE, 21 - LEAST_SLOW, {"Reno": 21 - LEAST_SLOW})
    assert slow.samples[-1].startswith("[/fill] fill welder×1 in Reno, NV: took 5000 ms, where more than")
    assert int(slow.evidence[-1][0], 16) == 19
    restored = IncidentBook()
    restored.load(book.take_dirty())
    assert restored.incidents() == book.incidents()
