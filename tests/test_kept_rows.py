"""Rows are kept within a bound, and saved when they have changed, no matter what is among them."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.field_counts import FieldCounts
from sidecar.kept_rows import BYTES_A_STEP, ROWS_A_STEP, KeptRows, SavedRow


def rows_of_two() -> KeptRows[FieldCounts]:
    return KeptRows("x/", FieldCounts, 2)


def test_a_removed_row_is_saved_as_empty_if_it_ever_was_saved() -> None:
    """A row that left before any save is not mentioned, so that the list cannot grow without end."""
    rows = rows_of_two()
    rows.add("a", FieldCounts(seen=1))
    rows.add("b", FieldCounts(seen=2))
    saved = rows.take_dirty()
    for number in range(50):
        rows.add(f"c{number}", FieldCounts(seen=3))
    removed = {key: data for key, data in rows.take_dirty().items() if not data}
    assert removed == {"x/a": b"", "x/b": b""}
    assert sorted(saved) == ["x/a", "x/b"]
    assert rows.evicted == 50
    rows.put_back(["x/a", "y/other"])
    assert rows.take_dirty() == {"x/a": b""}


def test_more_rows_than_there_is_room_for_leave_the_newest() -> None:
    """Restoring keeps the rows used last and has the others removed; live rows stay as they are."""
    rows = rows_of_two()
    rows.load({f"x/{n}": msgspec.json.encode(SavedRow(n, FieldCounts(seen=n))) for n in (3, 1, 2)})
    assert [row.seen for row in rows.rows()] == [2, 3]
    assert rows.take_dirty() == {"x/1": b""}
    rows.load({"x/3": msgspec.json.encode(SavedRow(3, FieldCounts(seen=9)))})
    assert [row.seen for row in rows.rows()] == [2, 3]


def test_a_row_that_cannot_be_read_or_written_costs_itself() -> None:
    """The others are restored and saved."""
    rows = rows_of_two()
    assert rows.load(
        {
            "x/bad": b"{",
            "x/odd": b'{"n": 1, "row": {"seen": "x"}}',
            "x/ok": b'{"n": 2, "row": {"seen": 1}}',
            "y/z": b"{",
            "x/gone": b"",
        }
    ) == ["ok"]
    rows.add("poison", FieldCounts(seen=object()))  # type: ignore[arg-type] # what a bug might hand us
    rows.changed("ok")
    rows.changed("never here")
    assert rows.take_dirty() == {"x/ok": b'{"n":2,"row":{"seen":1}}'}
    assert rows.unusable == 3


@given(st.lists(st.tuples(st.sampled_from(["add", "touch", "changed", "prepare", "take"]), st.integers(0, 3))))
def test_preparing_a_save_changes_nothing_of_what_is_saved(steps: list[tuple[str, int]]) -> None:
    """Rows that change after they were encoded ahead are saved as they are then."""
    plain, ahead = rows_of_two(), rows_of_two()
    for number, (step, at) in enumerate(steps):
        key = f"k{at}"
        if step == "prepare":
            next(ahead.prepare(), None)
        elif step == "take":
            assert plain.take_dirty() == ahead.take_dirty()
        for rows in (plain, ahead):
            if step == "add":
                rows.add(key, FieldCounts(seen=number))
            elif step == "touch" and (row := rows.touch(key)) is not None:
                row.seen = number
            elif step == "changed" and (row := rows.get(key)) is not None:
                row.seen = number
                rows.changed(key)
    assert plain.take_dirty() == ahead.take_dirty()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_a_restart_changes_nothing(uses: list[tuple[int, bool]]) -> None:
    """Whatever is used, in whatever order, with restarts between or without: the same rows are kept and saved."""
    through, saved_through = rows_of_two(), dict[str, bytes]()
    again, saved_again = rows_of_two(), dict[str, bytes]()
    for number, restart in uses:
        for rows in (through, again):
            row = rows.touch(str(number))
            if row is None:
                row = FieldCounts()
                rows.add(str(number), row)
            row.seen += 1
        if restart:
            saved_again |= again.take_dirty()
            again = rows_of_two()
            again.load({key: data for key, data in saved_again.items() if data})
    saved_through |= through.take_dirty()
    saved_again |= again.take_dirty()
    assert {k: v for k, v in saved_through.items() if v} == {k: v for k, v in saved_again.items() if v}


@given(st.lists(st.integers(0, 3 * BYTES_A_STEP // 2), max_size=12), st.integers(0, 3 * ROWS_A_STEP))
def test_a_step_of_preparing_is_bounded_by_bytes_and_rows(large: list[int], small: int) -> None:
    """Rows of a few bytes or of many: a step ends with the row that fills it, and what fills none is left unsaid."""
    rows = KeptRows("x/", FieldCounts, 1000)
    for number, size in enumerate([*large, *([0] * small)]):
        rows.add(str(number), FieldCounts(beyond={"y" * size: 1}))
    sizes = {key: len(data) for key, data in rows.take_dirty().items()}
    rows.put_back(sizes)
    before: set[str] = set()
    for _ in rows.prepare():
        new = [sizes[f"x/{key}"] for key in rows._encoded if key not in before]
        before |= rows._encoded.keys()
        assert len(new) <= ROWS_A_STEP
        assert sum(new) - max(new) < BYTES_A_STEP
        assert len(new) == ROWS_A_STEP or sum(new) >= BYTES_A_STEP
    left = [sizes[f"x/{key}"] for key in rows._encoded if key not in before]
    assert len(left) < ROWS_A_STEP
    assert sum(left) < BYTES_A_STEP
    assert list(rows.prepare()) == []
    assert {key: len(data) for key, data in rows.take_dirty().items()} == sizes
