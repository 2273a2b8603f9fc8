"""A journal in segments is one journal: offsets go on, nothing is split, readers see no seams."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.store.damaged import MOST_BYTES, aside_path, keep_aside
from sidecar.store.forgetting import tombstone
from sidecar.store.journal_file import AppendFile, sealed
from sidecar.store.journal_reader import JournalReader
from sidecar.store.segments import active_base, closed_segments, drop_segment, journal_span, open_before, segment_path


class Note(msgspec.Struct):
    """A record small enough to look at."""

    n: int
    text: str = ""


def line(n: int, text: str = "") -> bytes:
    return sealed(msgspec.json.encode(Note(n, text)))


def written(path: Path, counts: list[int], segment_bytes: int) -> list[int]:
    """Append so many notes at a time; the offset behind each note."""
    file, number = AppendFile(path, segment_bytes), 0
    ends: list[int] = []
    for count in counts:
        lines = [line(number + each, "é" * (each % 5)) for each in range(count)]
        for each in lines:
            ends.append((ends[-1] if ends else 0) + len(each))
        file.append(b"".join(lines))
        assert file.size == ends[-1]
        number += count
    file.close()
    return ends


def scanned(path: Path, offset: int = 0) -> list[tuple[int, int]]:
    return [(note.n, end) for note, end in JournalReader(path).scan(Note, offset)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 6), max_size=12), st.integers(1, 400), st.integers(0, 60), st.integers(0, 3000))
def test_segments_read_as_one_file(counts: list[int], segment_bytes: int, most: int, most_bytes: int) -> None:
    """However a journal is cut up, scan from every record's end and every tail give what one file gives."""
    with TemporaryDirectory() as folder:
        one, many = Path(folder) / "one.jsonl", Path(folder) / "many.jsonl"
        ends = written(one, counts, 10**9)
        assert written(many, counts, segment_bytes) == ends
        assert (closed_segments(one), journal_span(many)[1]) == ([], ends[-1] if ends else 0)
        for offset in [0, *ends]:
            assert scanned(many, offset) == scanned(one, offset)
        tail = JournalReader(many).tail(Note, most, 10**9)
        assert tail == JournalReader(one).tail(Note, most, 10**9)
        bounded = JournalReader(many).tail(Note, most, most_bytes)
        assert sum(len(line(note.n, note.text)) for note in bounded) <= most_bytes
        assert bounded == (tail[-len(bounded) :] if bounded else [])


def test_an_append_is_never_split(tmp_path: Path) -> None:
    """What does not fit begins a new file, also when it alone is larger than a segment."""
    path = tmp_path / "ops.jsonl"
    written(path, [1, 1, 30, 1], 100)
    sizes = [len(file.read_bytes().splitlines()) for file in sorted(tmp_path.glob("ops.0*"))]
    assert sizes == [2, 30]
    assert path.read_bytes().count(b"\n") == 1
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())


def test_offsets_go_on_when_everything_closed_was_dropped(tmp_path: Path) -> None:
    """An empty file keeps the count; a scan from before begins at the oldest that is left."""
    path = tmp_path / "ops.jsonl"
    ends = written(path, [1] * 6, 70)
    for segment in closed_segments(path):
        drop_segment(path, segment)
    (marker,) = closed_segments(path)
    assert marker.size == 0
    assert scanned(path) == scanned(path, marker.base)
    file = AppendFile(path, 70)
    assert file.size == ends[-1]
    file.append(line(6))
    file.append(line(7))
    file.close()
    assert [n for n, _ in scanned(path)][-2:] == [6, 7]
    assert scanned(path)[-1][1] == file.size == journal_span(path)[1]
    assert [note.n for note in JournalReader(path).tail(Note, 2, 10**6)] == [6, 7]


def test_a_crash_between_closing_and_beginning_is_mended(tmp_path: Path) -> None:
    """The active file is missing: readers end with what there is, and the next start goes on behind it."""
    path = tmp_path / "ops.jsonl"
    ends = written(path, [3], 10**6)
    path.rename(segment_path(path, 0))
    assert [n for n, _ in scanned(path)] == [0, 1, 2]
    assert [note.n for note in JournalReader(path).tail(Note, 9, 10**6)] == [0, 1, 2]
    assert journal_span(path) == (0, ends[-1])
    file = AppendFile(path)
    assert file.size == ends[-1]
    file.append(line(3))
    file.close()
    assert [n for n, _ in scanned(path, ends[-1])] == [3]


class Unopenable(AppendFile):
    """Cannot begin a new file while *full* is set."""

    full = False

    def _open(self) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super()._open()


def test_a_file_that_cannot_be_begun_fails_the_append_and_no_more(tmp_path: Path) -> None:
    """The old one is closed, the new one cannot be created: later appends try again, at the same offset."""
    path = tmp_path / "ops.jsonl"
    file = Unopenable(path, 70)
    file.append(line(0) + line(1))
    file.full = True
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            file.append(line(2))
        assert (file.size, scanned(path)[-1]) == (70, (1, 70))
    file.sync()
    file.full = False
    file.append(line(2))
    file.close()
    file.close()
    assert [n for n, _ in scanned(path)] == [0, 1, 2]


def test_a_file_that_cannot_be_closed_fails_the_append_and_no_more(tmp_path: Path) -> None:
    """Something is in the way of its new name: what is there stays, and the next append tries again."""
    path = tmp_path / "ops.jsonl"
    file = AppendFile(path, 70)
    file.append(line(0) + line(1))
    segment_path(path, 0).mkdir()
    with pytest.raises(IsADirectoryError):
        file.append(line(2))
    segment_path(path, 0).rmdir()
    file.append(line(2))
    file.close()
    assert [n for n, _ in scanned(path)] == [0, 1, 2]


def test_an_old_file_is_closed_by_the_next_append(tmp_path: Path) -> None:
    """Age counts from the first record, also after a restart."""
    path, now = tmp_path / "ops.jsonl", [1_000_000.0]
    record = b'{"n":1,"timestamp":"1970-01-12T13:46:40.000Z"}'  # now
    file = AppendFile(path, segment_age_s=60.0, now_s=lambda: now[0])
    file.append(sealed(record))
    now[0] += 50
    file.append(line(2))
    assert closed_segments(path) == []
    file.close()
    file = AppendFile(path, segment_age_s=60.0, now_s=lambda: now[0])
    now[0] += 20
    file.append(line(3))
    assert len(closed_segments(path)) == 1
    file.append(line(4))
    file.close()
    assert len(closed_segments(path)) == 1
    path.write_bytes(b'{"n":1,"at":"soon"}\n')
    os.utime(path, (now[0] - 100, now[0] - 100))
    file = AppendFile(path, segment_age_s=60.0, now_s=lambda: now[0])
    file.append(line(5))
    file.close()
    assert len(closed_segments(path)) == 2


def test_a_reader_goes_on_while_segments_are_closed_and_dropped(tmp_path: Path) -> None:
    """What it has open it reads to the end; then it goes on with what there is."""
    path = tmp_path / "ops.jsonl"
    file = AppendFile(path, 70)
    file.append(line(0))
    records = JournalReader(path).scan(Note)
    assert next(records)[0].n == 0
    for number in range(1, 6):
        file.append(line(number))
    drop_segment(path, closed_segments(path)[0])
    assert [note.n for note, _ in records] == [1, 2, 3, 4, 5]
    records = JournalReader(path).scan(Note)
    first = next(records)[0].n
    while closed_segments(path)[0].size:
        drop_segment(path, closed_segments(path)[0])
    assert first == 2
    assert [note.n for note, _ in records][-1] == 5
    file.close()


def test_the_name_that_the_writer_takes_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    """The last closed segment goes while the active file is being closed under the name of the mark."""
    path = tmp_path / "ops.jsonl"
    written(path, [1, 1], 40)
    (segment,) = closed_segments(path)
    drop_segment(path, segment)
    assert path.rename(segment_path(path, segment.end)).stat().st_size > 0  # over the mark
    assert [n for n, _ in scanned(path)] == [1]
    assert active_base(closed_segments(path)) == journal_span(path)[1]
    assert open_before(path, segment.end) is None


def test_a_damaged_record_is_kept_aside_once_and_named(tmp_path: Path) -> None:
    """The log names file and byte; reading again keeps it no second time; the others are read."""
    path = tmp_path / "ops.jsonl"
    written(path, [1, 1, 1, 1], 40)
    segment = closed_segments(path)[1]
    bad = segment.path.read_bytes().replace(b'"n":1', b'"n":7')
    segment.path.write_bytes(bad)
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            reader = JournalReader(path, keep_damaged=True)
            assert [note.n for note, _ in reader.scan(Note)] == [0, 2, 3]
            assert reader.damaged == 1
    assert aside_path(path).read_bytes() == bad
    assert {(one["event"], one["path"], one["at_byte"]) for one in logged} == {
        ("journal.record_damaged", str(segment.path), 0)
    }


def test_a_closed_segment_that_lost_its_end_costs_the_torn_record(tmp_path: Path) -> None:
    """It is no line that is still being written: it is damage, also where it was cut inside a character."""
    path = tmp_path / "ops.jsonl"
    written(path, [5, 5], 300)
    segment = closed_segments(path)[0]
    whole = segment.path.read_bytes()
    segment.path.write_bytes(whole[: whole.rindex("é".encode()) + 1])
    reader = JournalReader(path)
    assert [note.n for note, _ in reader.scan(Note)] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert reader.damaged == 1
    assert [note.n for note in JournalReader(path).tail(Note, 6, 10**6)] == [3, 5, 6, 7, 8, 9]


def test_what_is_kept_aside_is_bounded(tmp_path: Path) -> None:
    """A megabyte is enough for people to look at; the rest is counted only."""
    path = tmp_path / "ops.jsonl"
    assert keep_aside(path, b"x" * (MOST_BYTES - 10))
    assert not keep_aside(path, b"y" * 10)
    assert keep_aside(path, b"y" * 5)
    assert aside_path(path).stat().st_size <= MOST_BYTES


def test_forgotten_lines_are_passed_over(tmp_path: Path) -> None:
    """A tombstone is no damage, and is not shown, whichever way it is read."""
    path = tmp_path / "ops.jsonl"
    path.write_bytes(line(0) + tombstone(80) + line(1))
    reader = JournalReader(path)
    assert [note.n for note, _ in reader.scan(Note)] == [0, 1]
    assert [note.n for note in reader.tail(Note, 3, 10**6)] == [0, 1]
    assert reader.damaged == 0
