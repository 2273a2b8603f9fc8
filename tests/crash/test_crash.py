"""A short run of the crash harness: one round of six faults, each judged by the oracle (`make crash` plays more)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.faults import FAULTS
from tests.crash.load import CONNECTIONS
from tests.crash.rounds import fault_of, run_round

SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS, ids=[FAULTS[seed].name for seed in SEEDS])
async def test_a_round_leaves_nothing_lost_doubled_or_damaged(tmp_path: Path, seed: int) -> None:
    """Every acknowledged event is in the journal once, intact and in order; what comes after the fault flows."""
    missing = fault_of(seed).missing()
    if missing:
        pytest.skip(missing)
    played = await run_round(seed, tmp_path)
    assert played.verdict.kinds == {}
    assert played.acknowledged > CONNECTIONS
