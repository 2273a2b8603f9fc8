"""What may happen to the corrections file: rotation, truncation, rewriting, deletion, re-creation, copies."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import pytest

from sidecar.receivers.corrections_follower import READ_LINES
from tests.corrections_bench import Bench, rows


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def _drained(bench: Bench) -> list[str | None]:
    """What was recorded after as many calls as any of these cases needs."""
    for _ in range(3):
        await bench.tailer.tail()
    return bench.got


@pytest.mark.parametrize("long", ["", "x" * 2000])
async def test_rotated_file_is_read_to_its_end_first(bench: Bench, long: str) -> None:
    """Rows written before the rename come before those of the new file, all in one call."""
    bench.append("a" + long, "b" + long)
    await bench.tailer.tail()
    bench.append("c")
    bench.path.rename(bench.path.with_suffix(".1"))
    bench.append("d", "e")
    assert await bench.tailer.tail() == 3
    assert bench.got == ["a" + long, "b" + long, "c", "d", "e"]
    bench.tailer.close()


async def test_writer_that_holds_the_rotated_file_is_heard_once_more(bench: Bench) -> None:
    """Rows and a last fragment that reach the old file after the switch are read at the next call."""
    bench.append("a")
    await bench.tailer.tail()
    with bench.path.open("ab") as writer:
        bench.path.rename(bench.path.with_suffix(".1"))
        bench.append("new")
        assert await bench.tailer.tail() == 1
        writer.write(rows("late", "no line feed")[:-1])
    bench.append("newer")
    assert await bench.tailer.tail() == 3
    assert bench.got == ["a", "new", "late", "no line feed", "newer"]
    bench.tailer.close()


async def test_rename_is_no_end_until_the_new_file_is_there(bench: Bench) -> None:
    """Between the two steps of a rotation the old file is still read."""
    bench.append("a")
    await bench.tailer.tail()
    old = bench.path.rename(bench.path.with_suffix(".1"))
    with old.open("ab") as writer:
        writer.write(rows("b"))
    assert await bench.tailer.tail() == 1
    bench.append("c")
    assert await _drained(bench) == ["a", "b", "c"]
    bench.tailer.close()


async def test_rotation_during_a_restart_loses_nothing(bench: Bench) -> None:
    """The old file is found again by its inode, under whatever name it has now."""
    bench.append("a")
    await bench.tailer.tail()
    bench.append("b")
    bench.path.rename(bench.path.with_name("archive-1"))
    bench.append("c")
    bench.restart()
    assert await bench.tailer.tail() == 2
    assert bench.got == ["a", "b", "c"]
    bench.tailer.close()


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("long", ["", "x" * 2000])
async def test_truncated_file_is_read_again_without_repeats(bench: Bench, restarts: bool, long: str) -> None:
    """Cut to nothing and begun anew: new rows are read, rows seen before are not recorded twice."""
    bench.append("a" + long, "b" + long, "c" + long)
    await bench.tailer.tail()
    bench.path.write_bytes(rows("b" + long, "d"))
    if restarts:
        bench.restart()
    assert await bench.tailer.tail() == 1
    assert bench.got[3:] == ["d"]
    bench.append("e", "e")
    assert await bench.tailer.tail() == 2
    assert bench.tailer.repeated == 1
    bench.tailer.close()


@pytest.mark.parametrize("restarts", [False, True])
async def test_file_truncated_and_grown_beyond_the_old_offset_is_noticed(bench: Bench, restarts: bool) -> None:
    """Size alone does not tell; the fingerprint of the first bytes does."""
    bench.append("a")
    await bench.tailer.tail()
    bench.path.write_bytes(rows("a longer one", "another", "a"))
    if restarts:
        bench.restart()
    assert await _drained(bench) == ["a", "a longer one", "another"]
    bench.tailer.close()


async def test_rewrite_behind_the_first_bytes_is_noticed(bench: Bench) -> None:
    """Where head and size fit, the last row read tells that the file is another."""
    head = "h" * 3000
    bench.append(head, "a", "b")
    await bench.tailer.tail()
    bench.path.write_bytes(rows(head, "b", "c", "d"))
    assert await _drained(bench) == [head, "a", "b", "c", "d"]
    bench.tailer.close()


async def test_file_replaced_by_a_trimmed_copy_repeats_nothing(bench: Bench) -> None:
    """An editor's or a trimmer's write-and-rename is no reason to replay what was seen."""
    bench.append("a", "b", "c")
    await bench.tailer.tail()
    new = bench.path.with_suffix(".tmp")
    new.write_bytes(rows("b", "c", "d"))
    new.replace(bench.path)
    assert await _drained(bench) == ["a", "b", "c", "d"]
    bench.tailer.close()


@pytest.mark.parametrize("restarts", [False, True])
async def test_copy_in_its_place_is_read_on_where_it_was(bench: Bench, restarts: bool) -> None:
    """The same bytes under another inode, as after a restored backup: only what follows is new."""
    bench.append("a", "a", "b")
    await bench.tailer.tail()
    copy = bench.path.with_suffix(".copy")
    shutil.copy(bench.path, copy)
    copy.replace(bench.path)
    bench.append("a", "c")
    if restarts:
        bench.restart()
    assert await _drained(bench) == ["a", "a", "b", "a", "c"]
    bench.tailer.close()


@pytest.mark.parametrize("noticed", [False, True])
async def test_deleted_and_created_anew(bench: Bench, noticed: bool) -> None:
    """Rows of the deleted file that were not read yet are not lost, and the new file is read from its first byte."""
    bench.append("a")
    await bench.tailer.tail()
    bench.append("b")
    bench.path.unlink()
    if noticed:
        assert await _drained(bench) == ["a", "b"]
    bench.append("c", "d")
    assert await _drained(bench) == ["a", "b", "c", "d"]
    bench.tailer.close()


async def test_no_descriptor_is_left_over_many_rotations(bench: Bench) -> None:
    """However often the file changes, one or two are open, and none after `close`."""
    before = _descriptors()
    for number in range(20):
        bench.append(str(number))
        if number % 3 == 2:
            bench.path.unlink()
        else:
            bench.path.rename(bench.path.with_suffix(f".{number}"))
        bench.append(f"{number} new")
        await bench.tailer.tail()
        assert _descriptors() <= before + 2
    bench.tailer.close()
    bench.tailer.close()
    assert _descriptors() == before


def _descriptors() -> int:
    gc.collect()  # what an earlier test left is not to go while this one counts
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_rotated_copies_that_do_not_fit_are_left_alone(bench: Bench) -> None:
    """A file with the old inode but other content is not the one that was read; the new one is read anew."""
    bench.append("a", "b")
    await bench.tailer.tail()
    old = bench.path.rename(bench.path.with_suffix(".1"))
    old.write_bytes(rows("other"))
    bench.append("b", "c")
    bench.restart()
    assert await _drained(bench) == ["a", "b", "c"]
    bench.tailer.close()


async def test_state_lost_journal_kept(bench: Bench) -> None:
    """Without a cursor, the journal alone tells what was taken; also when the file was rewritten meanwhile."""
    bench.append("a", "b")
    await bench.tailer.tail()
    bench.append("c")
    bench.restart({}, journal_at=0)
    assert await _drained(bench) == ["a", "b", "c"]
    bench.path.write_bytes(rows("c", "a", "d"))
    bench.restart({}, journal_at=0)
    assert await _drained(bench) == ["a", "b", "c", "d"]
    bench.tailer.close()


async def test_state_lost_after_more_rows_than_are_remembered(bench: Bench) -> None:
    """The journal's oldest rows move the position on, so that none of 25,000 is recorded again."""
    texts = [str(number) for number in range(25_000)]
    bench.append(*texts)
    for _ in range(3):
        await bench.tailer.tail()
    bench.append("new")
    bench.restart({}, journal_at=0)
    for _ in range(3):
        await bench.tailer.tail()
    assert bench.got == [*texts, "new"]
    bench.tailer.close()


@pytest.mark.parametrize("cursor", [{"position": 5}, {"seen": "%%"}, {"ahead": {}}, {"ahead": ["x"]}])
async def test_cursor_without_sense_is_not_fatal(bench: Bench, cursor: dict[str, object]) -> None:
    """It is logged, and reading begins at the first byte."""
    bench.append("a")
    bench.restart(cursor)
    assert await bench.tailer.tail() == 1
    bench.tailer.close()


async def test_unreadable_new_file_does_not_cost_the_rest_of_the_old_one(bench: Bench) -> None:
    """What was read before the error is recorded; the new file is read when it can be."""
    bench.append("a")
    await bench.tailer.tail()
    bench.append("b")
    bench.path.rename(bench.path.with_suffix(".1"))
    os.mkfifo(bench.path)
    assert await bench.tailer.tail() == 1
    assert await bench.tailer.tail() == 0
    assert bench.tailer.read_errors == 1
    bench.path.unlink()
    bench.append("c")
    assert await _drained(bench) == ["a", "b", "c"]
    bench.tailer.close()


@pytest.mark.parametrize("part", ["_file", "_retired"])
async def test_handle_that_went_stale_is_opened_anew(bench: Bench, part: str) -> None:
    """A file that can be read no more, as over a network that was away, holds up neither itself nor the next."""
    bench.append("a")
    await bench.tailer.tail()
    bench.path.rename(bench.path.with_suffix(".1"))
    bench.append("b")
    await bench.tailer.tail()
    stale = getattr(bench.tailer._follower, part)
    folder = os.open(bench.path.parent, os.O_RDONLY)
    os.dup2(folder, stale._fd)  # reading a folder fails, as reading a stale handle does
    os.close(folder)
    bench.append("c")
    assert await _drained(bench) == ["a", "b", "c"]
    assert bench.tailer.read_errors == (part == "_file")
    bench.tailer.close()


async def test_long_rest_of_a_rotated_file_takes_several_reads(bench: Bench) -> None:
    """A flood into the old file after the switch is read in bounded pieces, the new file's rows between them."""
    bench.append("a")
    await bench.tailer.tail()
    with bench.path.open("ab") as writer:
        bench.path.rename(bench.path.with_suffix(".1"))
        bench.append("b")
        await bench.tailer.tail()
        writer.write(rows(*map(str, range(READ_LINES + 3))))
    assert await bench.tailer.tail() == READ_LINES
    bench.append("c")
    assert await bench.tailer.tail() == 4
    assert sorted(map(str, bench.got)) == sorted(["a", "b", "c", *map(str, range(READ_LINES + 3))])
    bench.tailer.close()
