"""Journals stay within their bounds; what goes stays counted, and nothing goes before that is sure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from sidecar.data_shares import segment_bytes, shares
from sidecar.errors import RetryableError
from sidecar.settings import Settings
from sidecar.store.checkpoint_copy import NAME, Covered
from sidecar.store.journal_file import AppendFile, sealed
from sidecar.store.retention import BoundedJournal, Retention
from sidecar.store.segments import closed_segments, journal_span
from tests.fakes import ManualClock

NOW_S = 1_700_000_000


class State:
    """Covers as much as it is told, and notes in which order things happen."""

    def __init__(self, covered: Covered) -> None:
        self.covered = covered
        self.done: list[str] = []
        self.failing: Exception | None = None
        self.looks = 0

    async def save(self) -> None:
        if self.failing is not None:
            raise self.failing
        self.done.append("save")

    async def copy_to(self, path: Path) -> Covered:
        self.done.append(f"copy {path.name}")
        return self.covered

    def look(self) -> None:
        self.looks += 1

    async def let_go(self, offset: int) -> None:
        self.done.append(f"let go {offset}")


class Broken:
    """A follower with a fault."""

    async def let_go(self, offset: int) -> None:
        raise ValueError(offset)


def journal(folder: Path, name: str, ages_s: Sequence[int]) -> Path:
    """Segments of 100 bytes, one a given age, and an active file of 100."""
    path = folder / f"{name}.jsonl"
    file = AppendFile(path, 100)
    for number in range(len(ages_s) + 1):
        file.append(sealed(msgspec.json.encode({"n": f"{number:>{100 - 26}}"})))
    file.close()
    for segment, age_s in zip(closed_segments(path), ages_s, strict=True):
        assert segment.size == 100
        os.utime(segment.path, (NOW_S - age_s, NOW_S - age_s))
    return path


def retention(
    folder: Path, state: State, ages_s: Sequence[int], *, most_bytes: int = 10**6, max_age_s: float | None = None
) -> Retention:
    made = Retention(
        state,
        state.save,
        ManualClock(NOW_S * 10**9),
        ops=BoundedJournal("ops", journal(folder, "ops", ages_s), most_bytes, state.look),
        decisions=BoundedJournal("decisions", journal(folder, "decisions", []), most_bytes, state.look),
        max_age_s=max_age_s,
    )
    made.journals[0].followers.append(state)
    return made


ALL = Covered(10**9, 10**9)


async def test_what_is_within_its_bounds_stays(tmp_path: Path) -> None:
    """Nothing is saved, copied or said; what is there is counted."""
    state = State(ALL)
    kept = retention(tmp_path, state, [50, 40])
    assert await kept.enforce() == 0
    assert (state.done, kept.journals[0].bytes, kept.journals[0].segments) == ([], 300, 3)


async def test_too_many_bytes_drop_the_oldest(tmp_path: Path) -> None:
    """First the state is saved and copied, then the follower is told, then they go; an eighth stays free."""
    state = State(ALL)
    kept = retention(tmp_path, state, [50, 40, 30, 20], most_bytes=400)
    assert await kept.enforce() == 2
    assert state.done == ["save", f"copy {NAME}", "let go 200"]
    ops = kept.journals[0]
    assert (journal_span(ops.active), ops.bytes, ops.segments, ops.dropped) == ((200, 500), 300, 3, 2)
    assert await kept.enforce() == 0


async def test_old_segments_go(tmp_path: Path) -> None:
    """By when they were closed; all closed ones may go, and the count goes on."""
    state = State(ALL)
    kept = retention(tmp_path, state, [500, 400, 30], max_age_s=100.0)
    assert await kept.enforce() == 2
    (left,) = closed_segments(kept.journals[0].active)
    os.utime(left.path, (0, 0))
    assert await kept.enforce() == 1
    assert journal_span(kept.journals[0].active)[1] == 400
    assert await kept.enforce() == 0


async def test_each_look_closes_what_is_old(tmp_path: Path) -> None:
    """Both journals' writers are asked to look at an active file that nobody writes to, also where age is no matter."""
    for number, max_age_s in enumerate((None, 100.0)):
        state = State(ALL)
        folder = tmp_path / str(number)
        folder.mkdir()
        await retention(folder, state, [], max_age_s=max_age_s).enforce()
        assert state.looks == 2


async def test_nothing_goes_that_the_copy_does_not_cover(tmp_path: Path) -> None:
    """The copy ends inside the second segment: only the first one goes."""
    state = State(Covered(150, 10**9))
    kept = retention(tmp_path, state, [500, 400, 300], max_age_s=100.0)
    assert await kept.enforce() == 1
    assert journal_span(kept.journals[0].active)[0] == 100


async def test_a_state_that_cannot_be_saved_keeps_everything(tmp_path: Path) -> None:
    """Rather too many bytes than records that nothing counts."""
    state = State(ALL)
    state.failing = RetryableError("state.db is busy", "the previous save has not finished", "Look at the disk")
    kept = retention(tmp_path, state, [500], max_age_s=100.0)
    with pytest.raises(RetryableError):
        await kept.enforce()
    assert (state.done, journal_span(kept.journals[0].active)[0]) == ([], 0)


async def test_a_follower_with_a_fault_does_not_fill_the_disk(tmp_path: Path) -> None:
    """It is logged; the others are told, and the bounds hold."""
    state = State(ALL)
    kept = retention(tmp_path, state, [500], max_age_s=100.0)
    kept.journals[0].followers.insert(0, Broken())
    assert await kept.enforce() == 1
    assert state.done[-1] == "let go 100"


def test_the_shares_are_the_whole() -> None:
    """Half for operations, a quarter for spans that wait; segments are a sixteenth, within reason."""
    parts = shares(2**30)
    assert (parts.ops, parts.spool, sum(parts)) == (2**29, 2**28, 2**30)
    assert [segment_bytes(share) for share in (2**20, 2**28, 2**40)] == [2**20, 2**24, 2**26]
    assert Settings().shares == parts
    assert (Settings().retention_s, Settings(retention=0.0).retention_s) == (30 * 86_400.0, None)
