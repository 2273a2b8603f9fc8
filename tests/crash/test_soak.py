"""The soak's findings: what they call growth, and that a short run fills its table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.crash.soak import Sample, findings, soak

_MIB = 2**20


def samples(resident_mib: Sequence[float], **last: int) -> list[Sample]:
    """A row each 10 s, with *last* in the last one."""
    rows = [
        {"seconds": 10 * (n + 1), "acknowledged": 10_000 * (n + 1), "refused": 0, "exported": 0}
        | {
            "resident": int(mib * _MIB),
            "anonymous": int(mib * _MIB) // 2,
            "threads": 5,
            "descriptors": 30,
            "journals": _MIB,
            "state": _MIB,
            "folder": 3 * _MIB,
        }
        for n, mib in enumerate(resident_mib)
    ]
    return [Sample(**row) for row in [*rows[:-1], rows[-1] | last]]


def wrong(rows: list[Sample], bound: int = 10 * _MIB) -> list[str]:
    """The first words of what is not well."""
    return [what.split()[0] for well, what in findings(rows, len(rows) / 6, 1000, bound) if not well]


def test_a_steady_run_is_well() -> None:
    """Noise of one sample is none of its business."""
    assert wrong(samples([80, 81, 80, 82, 80, 81, 80, 99, 80, 81, 80, 81])) == []


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (samples([80] * 6 + [86] * 6), ["resident"]),
        (samples([119] * 10 + [121, 119]), ["resident"]),
        (samples([80] * 12, threads=9), ["threads"]),
        (samples([80] * 12, descriptors=40), ["descriptors"]),
        (samples([80] * 12, folder=11 * _MIB), ["data"]),
        (samples([80] * 12, acknowledged=1000), ["acknowledged"]),
        (samples([80] * 12, refused=1), ["refused"]),
    ],
)
def test_what_grows_is_named(rows: list[Sample], expected: list[str]) -> None:
    """Memory by 5 %, or beyond its bound; threads and descriptors beyond what comes and goes; the folder's bytes."""
    assert wrong(rows) == expected


async def test_a_short_run_fills_the_table(tmp_path: Path) -> None:
    """Each row tells what had been acknowledged; the last ones, all of it."""
    table = tmp_path / "soak.csv"
    await soak(minutes=0.03, rate=200, folder=tmp_path, table=table, settings={})
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert int(rows[-1]["acknowledged"]) == pytest.approx(360, abs=2)
    assert all(int(row["resident"]) > 20 * _MIB for row in rows)
