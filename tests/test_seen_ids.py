"""The table of ids against a plain model: what it finds, what it lets go, what it saves."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from sidecar.store.seen_ids import Seen, SeenIds

REF = bytes(range(24))
KEYS = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1), st.integers(0, 40).map(lambda low: low << 58 | 7))
"""Many that are alike, and many that share an index table or a slot in it."""


def spread(number: int) -> int:
    """A key such as hashing gives."""
    return number * 0x9E3779B97F4A7C15 % 2**64


def table(capacity: int = 10, max_age_s: int = 100) -> SeenIds:
    """Small blocks and few index tables, so that every edge is met."""
    return SeenIds(capacity, max_age_s, block_bits=2, part_bits=1)


class Model:
    """What the table should hold: (key, payload, seconds), oldest first."""

    def __init__(self, capacity: int, max_age_s: int) -> None:
        self.entries: list[tuple[int, int, int]] = []
        self._capacity, self._max_age_s = capacity, max_age_s

    def add(self, key: int, payload: int, now_s: int) -> None:
        self.entries = [*self.entries, (key, payload, now_s)][-self._capacity :]

    def discard(self, key: int) -> None:
        self.entries = [entry if entry[0] != key else (-1, 0, entry[2]) for entry in self.entries]

    def find(self, key: int, now_s: int) -> int | None:
        found = [(payload, at) for known, payload, at in self.entries if known == key]
        return found[-1][0] if found and now_s - found[-1][1] < self._max_age_s else None


STEPS = st.lists(st.tuples(st.sampled_from("aaaaaadr"), KEYS, st.integers(0, 30)), max_size=120)


@given(STEPS, st.integers(1, 23))
def test_it_finds_what_a_list_of_the_last_ids_would(steps: list[tuple[str, int, int]], capacity: int) -> None:
    """However ids come, go, grow old and are saved and loaded between: the last ones are found, the others not."""
    ids, model, rows, now_s = table(capacity), Model(capacity, 100), dict[str, bytes](), 1000
    for number, (step, key, passed) in enumerate(steps):
        now_s += passed
        if step == "a" and model.find(key, now_s) is None:
            ids.add(key, number, number + 1, REF, now_s)
            model.add(key, number, now_s)
        elif step == "d":
            ids.discard(key)
            model.discard(key)
        elif step == "r" and not any(known < 0 for known, _, _ in model.entries):
            rows |= ids.take_dirty()
            ids = table(capacity)
            ids.load({name: row for name, row in rows.items() if row})
        for known in {key, *(entry[0] for entry in model.entries if entry[0] >= 0)}:
            found = ids.find(known, now_s)
            assert (found.payload if found is not None else None) == model.find(known, now_s)
        assert len(ids) <= capacity


def test_an_id_is_found_with_all_that_was_kept() -> None:
    """Payload, stamp and the span's ids come back."""
    ids = table()
    ids.add(5, 6, 7, REF, 1000)
    assert ids.find(5, 1099) == Seen(6, 7, REF)
    assert ids.find(5, 1100) is None


def test_spans_are_forgotten_before_ids_are() -> None:
    """Only the newest 16,384 ids keep their spans' ids."""
    ids = SeenIds()
    for key in range(16_384 + 4096 + 1):
        ids.add(spread(key), 1, 2, REF, 1000)
    assert ids.find(spread(0), 1000) == Seen(1, 2, bytes(24))
    assert ids.find(spread(16_384), 1000) == Seen(1, 2, REF)


def test_old_ids_give_their_memory_back() -> None:
    """When a day has passed, those that come push out those that are too old, two for one."""
    ids = SeenIds(max_age_s=100)
    for key in range(20_000):
        ids.add(spread(key), 1, 2, REF, 1000)
    for key in range(20_000, 32_000):
        ids.add(spread(key), 1, 2, REF, 2000)
    assert len(ids) == 12_000
    assert [row for row in ids.take_dirty().values() if not row] != []


def test_a_million_ids_fit() -> None:
    """Every part of a full table together: at most 32 MiB."""
    ids = SeenIds()
    for number in range(250_000):  # a quarter of them: each part grows in proportion, in steps of two
        ids.add(spread(number), 1, 2, REF, 1000)
    assert 4 * _bytes(ids) < 36 * 2**20  # the spans' ids, 1.5 MiB, are counted four times here


def _bytes(found: object) -> int:
    if isinstance(found, list):
        return sys.getsizeof(found) + sum(map(_bytes, {id(part): part for part in found}.values()))
    if type(found).__name__ == "_Block":
        return sum(_bytes(getattr(found, name)) for name in ("ids", "payloads", "stamps", "times", "refs"))
    if isinstance(found, SeenIds):
        return sum(_bytes(part) for part in vars(found).values())
    return sys.getsizeof(found)


def test_at_rest_it_costs_next_to_nothing() -> None:
    """Nothing is allocated before the first id."""
    assert _bytes(SeenIds()) < 100_000


def test_an_unreadable_row_costs_its_own_ids() -> None:
    """It is counted; the others are found, and new ones find room."""
    ids = table(20)
    for key in range(16):
        ids.add(key, key, 0, REF, 1000)
    rows = ids.take_dirty()
    rows["1"] = rows["1"][:-1]
    again = table(20)
    again.load(rows)
    assert again.unusable == 1
    assert [key for key in range(16) if again.find(key, 1000) is None] == [4, 5, 6, 7]
    for key in range(100, 140):
        again.add(key, key, 0, REF, 1000)
    assert [key for key in range(100, 140) if again.find(key, 1000) is not None] == list(range(120, 140))


def test_rows_that_were_not_saved_come_again() -> None:
    """A failed save forgets nothing."""
    ids = table()
    ids.add(1, 2, 3, REF, 1000)
    rows = ids.take_dirty()
    assert ids.take_dirty() == {}
    ids.put_back(rows)
    assert ids.take_dirty() == rows
