"""The state file: whole transactions, a damaged file set aside, a stalled disk that blocks nobody."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import RetryableError, StartError
from sidecar.store.state import StateStore
from tests.fakes import ManualClock

_TABLES = ("cursors", "incidents", "successes", "learning")
_keys = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
_changes = st.dictionaries(st.sampled_from(_TABLES), st.dictionaries(_keys, st.binary(), max_size=4))


def _descriptors() -> int:
    gc.collect()  # what an earlier test left is not to go while this one counts
    return len(list(Path("/proc/self/fd").iterdir()))


def _store(folder: Path, busy_timeout_s: float = 5.0) -> StateStore:
    store = StateStore(folder, ManualClock(), busy_timeout_s=busy_timeout_s)
    store.open()
    return store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    opened = _store(tmp_path)
    yield opened
    opened.close()


@settings(deadline=None)  # each example opens files; a busy disk is no failure
@given(st.lists(_changes, max_size=5))
def test_tables_hold_the_sum_of_all_changes(tmp_path_factory: pytest.TempPathFactory, saves: list[object]) -> None:
    """Whatever is saved over several transactions and restarts is loaded back; an empty body deletes the row."""
    folder = tmp_path_factory.mktemp("state")
    expected: dict[str, dict[str, bytes]] = {table: {} for table in _TABLES}
    for changes in saves:
        assert isinstance(changes, dict)
        store = _store(folder)
        store.save(changes)
        store.close()
        for table, rows in changes.items():
            expected[table].update(rows)
    store = _store(folder)
    assert {table: store.load(table) for table in _TABLES} == {
        table: {key: body for key, body in rows.items() if body} for table, rows in expected.items()
    }
    assert not store.rebuilt
    store.close()


def test_files_are_for_their_owner_only(store: StateStore, tmp_path: Path) -> None:
    """Database, write-ahead log and its index have mode 0600."""
    store.save({"cursors": {"a": b"1"}})
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


def test_failed_save_changes_nothing(store: StateStore) -> None:
    """A transaction is all or nothing, also when one of its tables does not exist."""
    store.save({"cursors": {"a": b"1"}})
    with pytest.raises(KeyError):
        store.save({"cursors": {"a": b"2"}, "nowhere": {"x": b"y"}})
    with pytest.raises(UnicodeEncodeError):
        store.save({"cursors": {"a": b"3", "\ud800": b"y"}})
    assert store.load("cursors") == {"a": b"1"}
    store.save({"cursors": {"a": b"4"}})
    assert store.load("cursors") == {"a": b"4"}


@pytest.mark.parametrize("damage", [b"not a database at all" * 500, b"SQLite format 3\0" + b"\xff" * 8000])
def test_file_that_is_no_database_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    """It is kept under another name, an empty file begins, and `rebuilt` says so."""
    (tmp_path / "state.db").write_bytes(damage)
    store = _store(tmp_path)
    assert store.rebuilt
    assert (tmp_path / "state.db.corrupt-1700000000000").read_bytes() == damage
    assert store.load("cursors") == {}
    store.save({"cursors": {"a": b"1"}})
    store.close()
    again = _store(tmp_path)
    assert not again.rebuilt
    assert again.load("cursors") == {"a": b"1"}
    again.close()


def test_damaged_pages_are_noticed_and_their_log_set_aside_too(tmp_path: Path) -> None:
    """Pages overwritten inside a database fail the check at open, and a WAL left behind is not applied anew."""
    store = _store(tmp_path)
    store.save({"incidents": {str(number): b"x" * 900 for number in range(200)}})
    store.close()
    path = tmp_path / "state.db"
    data = bytearray(path.read_bytes())
    data[4096 * 6 : 4096 * 20] = b"\xee" * (4096 * 14)
    path.write_bytes(data)
    (tmp_path / "state.db-wal").write_bytes(b"left over")
    again = _store(tmp_path)
    assert again.rebuilt
    assert again.load("incidents") == {}
    assert (tmp_path / "state.db.corrupt-1700000000000").exists()
    again.close()


def test_file_with_other_tables_is_set_aside(tmp_path: Path) -> None:
    """A database of ours by its version number whose tables are missing is damaged, too."""
    with closing(sqlite3.connect(tmp_path / "state.db")) as other:
        other.execute("PRAGMA user_version = 1")
    store = _store(tmp_path)
    assert store.rebuilt
    store.close()


def test_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A file from a newer version stops the start with a way out; it is not touched."""
    with closing(sqlite3.connect(tmp_path / "state.db")) as newer:
        newer.execute("PRAGMA user_version = 99")
    before = (tmp_path / "state.db").read_bytes()
    store = StateStore(tmp_path, ManualClock())
    with pytest.raises(StartError, match=r"newer observer.*version is 99.*move state\.db away"):
        store.open()
    assert not store.rebuilt
    assert (tmp_path / "state.db").read_bytes() == before


def test_file_that_cannot_be_opened_is_a_start_error(tmp_path: Path) -> None:
    """A folder in the file's place is not damage to be set aside."""
    (tmp_path / "state.db").mkdir()
    with pytest.raises(StartError, match="cannot be opened"):
        StateStore(tmp_path, ManualClock()).open()


def test_locked_file_is_a_start_error_not_damage(tmp_path: Path) -> None:
    """Another program's lock must not cost the state."""
    _store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        store = StateStore(tmp_path, ManualClock(), busy_timeout_s=0.01)
        with pytest.raises(StartError, match="locked"):
            store.open()
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]


async def test_save_soon_saves_what_it_was_given(store: StateStore) -> None:
    """The rows are those of the call's moment, however the caller changes its own dict meanwhile."""
    rows = {"a": b"1"}
    saving = asyncio.ensure_future(store.save_soon({"cursors": rows}))
    await asyncio.sleep(0)
    rows["a"] = b"2"
    await saving
    assert store.load("cursors") == {"a": b"1"}
    with pytest.raises(KeyError):
        await store.save_soon({"nowhere": rows})
    await store.save_soon({"cursors": rows})
    assert store.load("cursors") == {"a": b"2"}


async def test_stalled_save_blocks_neither_loop_nor_next_save(tmp_path: Path) -> None:
    """While one save hangs the loop goes on and the next is refused at once; afterwards all is well."""
    store = _store(tmp_path, busy_timeout_s=60)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # what a stalled disk looks like from outside
        hanging = asyncio.ensure_future(store.save_soon({"cursors": {"a": b"1"}}))
        await asyncio.sleep(0)
        with pytest.raises(RetryableError, match="busy"):
            await store.save_soon({"cursors": {"a": b"2"}})
        assert not hanging.done()
        other.execute("ROLLBACK")
    await hanging
    await store.save_soon({"cursors": {"b": b"3"}})
    assert store.load("cursors") == {"a": b"1", "b": b"3"}
    store.close()


async def test_what_was_done_is_not_held_on_to(store: StateStore) -> None:
    """A save's rows may be megabytes: they are let go of when it is done, not when the next one comes."""

    def work(connection: sqlite3.Connection) -> int:
        return connection.total_changes

    gone = threading.Event()
    weakref.finalize(work, gone.set)
    await store.run(work)
    del work
    assert await asyncio.to_thread(gone.wait, 30)


async def test_refused_write_is_retryable(tmp_path: Path) -> None:
    """A save that SQLite refuses raises RetryableError, from either call, and the next one works."""
    store = _store(tmp_path, busy_timeout_s=0.01)
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RetryableError, match="not written: database is locked"):
            store.save({"cursors": {"a": b"1"}})
        with pytest.raises(RetryableError, match="not written: database is locked"):
            await store.save_soon({"cursors": {"a": b"1"}})
        cancelled = asyncio.ensure_future(store.save_soon({"cursors": {"a": b"1"}}))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        store.close()  # waits for the save that nobody waits for
    with pytest.raises(RetryableError, match="closed"):
        await store.save_soon({})
    with pytest.raises(RetryableError, match="closed"):
        store.load("cursors")
    store.close()
    store.open()
    await store.save_soon({"cursors": {"a": b"2"}})
    store.close()


def test_closed_store_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    """Opening and closing many times adds up to nothing."""
    _store(tmp_path).close()
    threads, descriptors = threading.active_count(), _descriptors()
    for _ in range(5):
        _store(tmp_path).close()
    assert (threading.active_count(), _descriptors()) == (threads, descriptors)


_HANGING = """
import asyncio, sqlite3, sys
from pathlib import Path
from sidecar.clock import SystemClock
from sidecar.store.state import StateStore

store = StateStore(Path(sys.argv[1]), SystemClock(), busy_timeout_s=3600)
store.open()
other = sqlite3.connect(Path(sys.argv[1]) / "state.db", isolation_level=None)
other.execute("BEGIN IMMEDIATE")

async def main():
    saving = asyncio.ensure_future(store.save_soon({"cursors": {"a": b"1"}}))
    await asyncio.sleep(0)
    saving.cancel()

asyncio.run(main())
print("ended")
"""


def test_hanging_save_does_not_keep_the_process(tmp_path: Path) -> None:
    """The interpreter exits although its writer thread still waits for the disk."""
    ended = subprocess.run(
        [sys.executable, "-c", _HANGING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr
