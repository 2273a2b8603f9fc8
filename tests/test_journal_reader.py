"""A journal is read forward from an offset, or from its end; damage costs the damaged lines only."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.store.journal_file import sealed
from sidecar.store.journal_reader import JournalReader


class Note(msgspec.Struct):
    """A record small enough to look at."""

    n: int
    text: str = ""


def line(note: Note) -> bytes:
    return sealed(msgspec.json.encode(note))


def numbers(found: list[Note]) -> list[int]:
    return [note.n for note in found]


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    """A journal that was never written is empty, not an error."""
    reader = JournalReader(tmp_path / "none.jsonl")
    assert list(reader.scan(Note)) == []
    assert reader.tail(Note, 5, 1000) == []
    assert reader.damaged == 0


def test_scan_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Each record comes with the offset behind it, from which the next scan begins."""
    path = tmp_path / "ops.jsonl"
    path.write_bytes(b"".join(line(Note(n)) for n in range(4)))
    found = list(JournalReader(path).scan(Note))
    assert numbers([note for note, _ in found]) == [0, 1, 2, 3]
    assert found[-1][1] == path.stat().st_size
    assert numbers([note for note, _ in JournalReader(path).scan(Note, found[1][1])]) == [2, 3]
    assert list(JournalReader(path).scan(Note, found[-1][1])) == []


def test_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    """Neither a wrong checksum, nor bytes that are no JSON, nor another kind of record stops the reading."""
    path = tmp_path / "ops.jsonl"
    damaged = [
        line(Note(1)).replace(b'"n":1', b'"n":7'),
        b"\xff\xfe\n",
        b"\n",
        b'{"n":"no number"}\n',
        b'{"other":1}\n',
        b'{"n":' + b"[" * 5000 + b"}\n",
        sealed(b'{"n":1,"text":"\xc3"}'),
    ]
    path.write_bytes(line(Note(0)) + b"".join(damaged) + line(Note(9)))
    reader = JournalReader(path)
    found = list(reader.scan(Note))
    assert numbers([note for note, _ in found]) == [0, 9]
    assert found[-1][1] == path.stat().st_size
    assert reader.damaged == len(damaged)
    again = JournalReader(path)
    assert numbers(again.tail(Note, 100, 10**6)) == [0, 9]
    assert again.damaged == 0  # counted once, by whoever scans


def test_a_partial_last_line_is_still_being_written(tmp_path: Path) -> None:
    """It is neither read nor counted as damage, and is found by the next scan."""
    path = tmp_path / "ops.jsonl"
    whole = line(Note(2, "é" * 10))
    path.write_bytes(line(Note(1)) + whole[:20])
    reader = JournalReader(path)
    ((_, offset),) = reader.scan(Note)
    assert numbers(reader.tail(Note, 5, 1000)) == [1]
    path.write_bytes(line(Note(1)) + whole)
    assert numbers([note for note, _ in reader.scan(Note, offset)]) == [2]
    assert reader.damaged == 0


def test_lines_without_a_checksum_are_read(tmp_path: Path) -> None:
    """A journal that another program wrote, with fields of its own, is taken as it is."""
    path = tmp_path / "ops.jsonl"
    path.write_bytes(b'{"n":1,"mine":true}\n' + line(Note(2)))
    assert numbers([note for note, _ in JournalReader(path).scan(Note)]) == [1, 2]


notes = st.lists(st.builds(Note, n=st.integers(0, 99), text=st.text(max_size=30)), max_size=20)


@settings(deadline=None)
@given(notes, st.integers(0, 25), st.binary(max_size=10).map(lambda b: b.replace(b"\n", b"")))
def test_tail_is_the_end_of_scan(written: list[Note], most: int, partial: bytes) -> None:
    """The last *most* records are the same whichever way they are read."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ops.jsonl"
        path.write_bytes(b"".join(map(line, written)) + partial)
        scanned = [note for note, _ in JournalReader(path).scan(Note)]
        assert scanned == written
        assert JournalReader(path).tail(Note, most, 10**9) == (scanned[-most:] if most else [])


@settings(deadline=None)
@given(notes, st.integers(0, 2000))
def test_tail_reads_no_more_bytes_than_allowed(written: list[Note], most_bytes: int) -> None:
    """What comes back stood within the last *most_bytes* of the file, and is its end."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "ops.jsonl"
        path.write_bytes(b"".join(map(line, written)))
        found = JournalReader(path).tail(Note, 100, most_bytes)
        assert sum(len(line(note)) for note in found) <= most_bytes
        assert found == (written[-len(found) :] if found else [])


def test_tail_over_many_blocks(tmp_path: Path) -> None:
    """A tail longer than one block of reading is put together again."""
    path = tmp_path / "ops.jsonl"
    path.write_bytes(b"".join(line(Note(n, "x" * 1000)) for n in range(2000)))
    assert numbers(JournalReader(path).tail(Note, 1500, 10**9)) == list(range(500, 2000))
