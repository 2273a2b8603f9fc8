"""The journal's file holds whole records only, private, and shows where it was damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import StartError
from sidecar.store.journal_file import AppendFile, opened, sealed

RECORD = '{"endpoint":"/café","n":1}'.encode()


class FailingFile(AppendFile):
    """Writes at most *room* bytes in all, three at a time, then fails as a full disk does."""

    room = 0

    def _write(self, data: memoryview) -> int:
        if self.room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = os.write(self._fd, data[: min(3, self.room)])
        self.room -= written
        return written


class StuckFile(FailingFile):
    """Cannot be cut off either, as long as *stuck* is set."""

    stuck = True

    def _cut_off(self) -> None:
        if not self._clean and self.stuck:
            raise OSError(errno.EIO, "Input/output error")
        super()._cut_off()


def test_appends_go_to_the_end(tmp_path: Path) -> None:
    """What is appended follows what was there, and *size* is the file's."""
    path = tmp_path / "new" / "folder" / "ops.jsonl"
    for line in (b"one\n", b"two\n"):
        file = AppendFile(path)
        file.append(line)
        file.sync()
        assert file.size == path.stat().st_size
        file.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_files_are_private(tmp_path: Path) -> None:
    """The journal and what was cut from it are for the owner alone, also where the file was there before."""
    path = tmp_path / "d" / "ops.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"torn")
    path.chmod(0o644)
    AppendFile(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_suffix(".damaged").stat().st_mode & 0o777 == 0o600
    AppendFile(tmp_path / "made" / "ops.jsonl").close()
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("room", range(8))
def test_an_append_is_whole_or_nothing(tmp_path: Path, room: int) -> None:
    """A write that fails halfway leaves the file as it was; the next one succeeds."""
    path = tmp_path / "ops.jsonl"
    file = FailingFile(path)
    file.room = 100
    file.append(b"first\n")
    file.room = room
    with pytest.raises(OSError, match="No space left"):
        file.append(b"a\nb\nc\nd\n")
    assert path.read_bytes() == b"first\n"
    assert file.size == 6
    file.room = 100
    file.append(b"second\n")
    file.close()
    assert path.read_bytes() == b"first\nsecond\n"


def test_what_cannot_be_cut_off_at_once_is_cut_off_later(tmp_path: Path) -> None:
    """While the remains of a failed write cannot be removed, nothing is appended behind them."""
    path = tmp_path / "ops.jsonl"
    file = StuckFile(path)
    file.room = 3
    with pytest.raises(OSError, match="No space left"):
        file.append(b"lost\n")
    assert path.read_bytes() == b"los"
    file.room = 100
    with pytest.raises(OSError, match="Input/output"):
        file.append(b"next\n")
    file.stuck = False
    file.append(b"kept\n")
    assert path.read_bytes() == b"kept\n"
    file.room, file.stuck = 2, True
    with pytest.raises(OSError, match="No space left"):
        file.append(b"lost\n")
    file.stuck = False
    file.close()
    assert path.read_bytes() == b"kept\n"


@pytest.mark.parametrize("torn", ['{"endpoint":"/caf', '{"endpoint":"/café'], ids=["ascii", "text"])
@pytest.mark.parametrize("cut", [0, 1])
def test_a_torn_tail_is_mended_and_kept_aside(tmp_path: Path, torn: str, cut: int) -> None:
    """A last line without its end, cut inside a character or not, is moved to `.damaged`; whole lines stay."""
    path = tmp_path / "ops.jsonl"
    tail = torn.encode()[: len(torn.encode()) - cut]
    path.write_bytes(sealed(RECORD) + tail)
    file = AppendFile(path)
    file.append(b"next\n")
    file.close()
    assert path.read_bytes() == sealed(RECORD) + b"next\n"
    assert path.with_suffix(".damaged").read_bytes() == tail + b"\n"


def test_a_torn_tail_longer_than_a_block_is_mended(tmp_path: Path) -> None:
    """However far back the last line end is, it is found; a file without any is emptied."""
    path = tmp_path / "ops.jsonl"
    path.write_bytes(b"one\n" + b"x" * 200_000)
    AppendFile(path).close()
    assert path.read_bytes() == b"one\n"
    path.write_bytes(b"y" * 200_000)
    AppendFile(path).close()
    assert path.read_bytes() == b""
    assert path.with_suffix(".damaged").stat().st_size == 400_002


def test_a_tail_that_cannot_be_kept_aside_does_not_stop_the_start(tmp_path: Path) -> None:
    """The disk that tore the line may be full still: the line was never acknowledged, so we start without it."""
    path = tmp_path / "ops.jsonl"
    path.write_bytes(b"one\ntorn")
    path.with_suffix(".damaged").mkdir()
    AppendFile(path).close()
    assert path.read_bytes() == b"one\n"


def test_what_cannot_be_opened_is_a_start_error(tmp_path: Path) -> None:
    """A folder in the file's place, or a file in the folder's, is explained."""
    (tmp_path / "ops.jsonl").mkdir()
    with pytest.raises(StartError, match="OBSERVER_DATA_DIR"):
        AppendFile(tmp_path / "ops.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="cannot be opened"):
        AppendFile(tmp_path / "file" / "ops.jsonl")


_objects = st.dictionaries(
    st.text(max_size=5), st.one_of(st.integers(-9, 9), st.text(max_size=8)), min_size=1, max_size=4
)


@given(_objects)
def test_a_sealed_record_opens_again(record: dict[str, object]) -> None:
    """The checksum comes off as it went on, and the line is JSON with or without it."""
    encoded = msgspec.json.encode(record)
    line = sealed(encoded)
    assert line.endswith(b"\n")
    assert opened(line[:-1]) == encoded
    assert len(msgspec.json.decode(line)["crc"]) == 8


@given(_objects, st.data())
def test_a_flipped_bit_is_noticed(record: dict[str, object], data: st.DataObject) -> None:
    """One changed bit is noticed by the checksum or by JSON, or else the record is what it was."""
    encoded = msgspec.json.encode(record)
    line = bytearray(sealed(encoded)[:-1])
    at = data.draw(st.integers(0, len(line) * 8 - 1))
    line[at // 8] ^= 1 << at % 8
    found = opened(bytes(line))
    if found is None:
        return
    try:
        read = msgspec.json.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    assert {key: read[key] for key in record} == record  # the flip was in the name of the checksum itself


def test_lines_of_older_journals_are_taken() -> None:
    """A line without a checksum is read as it is; what is no object is not."""
    assert opened(RECORD) == RECORD
    for line in (b"", b"{", b"[1]", b"null", RECORD[:-1]):
        assert opened(line) is None
