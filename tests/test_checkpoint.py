"""State across restarts: what the journals hold is counted once, whatever was lost between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from sidecar.pipeline.observer import Observer
from tests.observers import client, observer, settings, stand_in


async def _fail(running: Observer, times: int) -> None:
    async with client(running) as http:
        for _ in range(times):
            assert (await http.post("/event", json={"endpoint": "/x", "error": "boom"})).is_success


def _counts(running: Observer) -> list[int]:
    return [incident.count for incident in running.books.incidents.incidents()]


def _without_last_line(journal: Path) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]))


async def test_a_restart_counts_every_failure_once(tmp_path: Path) -> None:
    """The checkpoint says how far it goes: nothing behind it is missed, nothing before it read again."""
    async with observer(tmp_path) as running:
        await _fail(running, 3)
        await running.cycle.run_once()
        await _fail(running, 2)
    async with observer(tmp_path) as running:
        assert _counts(running) == [5]


@pytest.mark.parametrize(("lose", "left"), [(_without_last_line, [2]), (Path.unlink, [])])
async def test_a_journal_that_lost_lines_is_the_truth(
    tmp_path: Path, lose: Callable[[Path], None], left: list[int]
) -> None:
    """After a power cut the state may know more than the journal: it is derived anew, not added to."""
    async with observer(tmp_path) as running:
        await _fail(running, 3)
    lose(tmp_path / "data" / "ops.jsonl")
    async with observer(tmp_path) as running:
        assert _counts(running) == left
        await _fail(running, 1)
    async with observer(tmp_path) as running:
        assert _counts(running) == [sum(left) + 1]


async def test_an_entry_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    """A cancelled `async with Observer(...)` stops what had started: the folder is free for the next."""
    async with stand_in() as gateway:
        gateway.silent |= {"/health"}
        first = Observer(settings(tmp_path, GATEWAY_URL=gateway.url, OBSERVER_REQUIRE_GATEWAY="true"), env={})
        entering = asyncio.create_task(first.__aenter__())
        await gateway.wait_for("/health")
        entering.cancel()
        await asyncio.wait([entering])
        async with observer(tmp_path) as second:
            assert second.port


async def test_what_was_diagnosed_stays_so_when_the_state_is_derived_anew(tmp_path: Path) -> None:
    """The marks come from the decision journal: nothing is diagnosed a second time."""
    async with observer(tmp_path) as running:
        await _fail(running, 3)
        await running.cycle.run_once()
        assert running.analyzer.diagnoses == 1
    _without_last_line(tmp_path / "data" / "ops.jsonl")
    async with observer(tmp_path) as running:
        await running.cycle.run_once()
        assert (running.analyzer.diagnoses, _counts(running)) == (0, [2])


class BusyRows:
    """Saved state of which every look at it finds fewer, but some, rows that changed meanwhile."""

    unusable = 0

    def __init__(self, steps: list[int]) -> None:
        self._steps = steps
        self.left: list[int] = []

    def load(self, _rows: Mapping[str, bytes]) -> None: ...

    def put_back(self, _keys: Iterable[str]) -> None: ...

    def prepare(self) -> Iterator[None]:
        return iter([None] * (self._steps.pop(0) if self._steps else 0))

    def take_dirty(self) -> dict[str, bytes]:
        self.left = list(self._steps)
        return {}


@pytest.mark.parametrize(("steps", "left"), [([9, 3, 1, 7], [7]), ([0, 5], [5]), ([9, 9, 9, 9, 9], [9])])
async def test_what_changes_while_rows_are_prepared_is_prepared_again(
    tmp_path: Path, steps: list[int], left: list[int]
) -> None:
    """Until hardly any does, or four times: so little is encoded in the moment in which nothing may change."""
    async with observer(tmp_path) as running:
        rows = BusyRows(steps)
        running.checkpoint._rows = {"incidents": rows}
        await running.checkpoint.save()
        assert rows.left == left
