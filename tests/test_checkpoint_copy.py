"""The copy of the state: whole or not there, private, and canonical when it is shown."""

from __future__ import annotations

import json
import sqlite3
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sidecar.analysis.rules import RuleBook
from sidecar.errors import RetryableError
from sidecar.packed import numbers, spans
from sidecar.store.checkpoint_copy import NAME, Covered, dumped, load_copy
from sidecar.store.state import StateStore
from tests.fakes import ManualClock, an_op

CURSORS = {"ops": b"70", "decisions": b"7", "corrections": b'{"x":1}', "other": b"1"}


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[StateStore]:
    store = StateStore(tmp_path, ManualClock())
    store.open()
    store.save({"incidents": {"b": b'{"z":1,"a":2}', "a": b"\xff\x00"}, "cursors": CURSORS})
    yield store
    store.close()


async def test_a_copy_says_how_far_it_goes(state: StateStore, tmp_path: Path) -> None:
    """It has the derived rows and the cursors saved with them; what an interrupted copy left is replaced."""
    (tmp_path / f"{NAME}.new").write_bytes(b"half")
    assert await state.copy_to(tmp_path / NAME) == Covered(70, 7)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / f"{NAME}.new").exists()
    copy = load_copy(tmp_path / NAME)
    assert copy is not None
    assert (copy.covered, copy.rows["incidents"]) == (Covered(70, 7), {"b": b'{"z":1,"a":2}', "a": b"\xff\x00"})
    assert sorted(copy.cursors) == ["corrections", "decisions", "ops"]


async def test_a_copy_that_cannot_be_made_leaves_the_one_before(state: StateStore, tmp_path: Path) -> None:
    """The disk refuses: a retryable error, and the older copy is as it was."""
    await state.copy_to(tmp_path / NAME)
    before = (tmp_path / NAME).read_bytes()
    (tmp_path / f"{NAME}.new").mkdir()
    with pytest.raises(RetryableError):
        await state.copy_to(tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == before
    state.close()
    with pytest.raises(RetryableError, match="closed"):
        await state.copy_to(tmp_path / NAME)


def test_a_copy_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    """The journals are read instead; it stays for people to look at."""
    assert load_copy(tmp_path / NAME) is None
    (tmp_path / NAME).write_bytes(b"no database" * 100)
    assert load_copy(tmp_path / NAME) is None
    assert (tmp_path / NAME).exists()


async def test_the_same_state_is_shown_by_the_same_bytes(state: StateStore, tmp_path: Path) -> None:
    """Keys in order; a row that is no JSON as hex digits; only the cursors of the journals."""
    shown = dumped(tmp_path / "state.db")
    assert json.loads(shown)["cursors"] == {"ops": 70, "decisions": 7}
    assert shown.index(b'"a": "ff00"') < shown.index(b'"a": 2') < shown.index(b'"z": 1')


def lists_instead_of_bytes(body: bytes) -> bytes:
    """A row of rules as it was saved before numbers and spans were packed (schema version 11)."""
    saved: dict[str, Any] = json.loads(body)
    sheet = saved["row"]["sheet"]
    sheet["refs"] = list(spans(b64decode(sheet["refs"])))
    for column in sheet["fields"].values():
        if "early" in column:
            column["early"] = list(numbers(b64decode(column["early"])))
    return json.dumps(saved).encode()


async def test_a_copy_of_an_older_version_keeps_what_dropped_segments_held(state: StateStore, tmp_path: Path) -> None:
    """Nothing can be read again for it: its rows are converted, and it goes as far into the journals as before."""
    book = RuleBook()
    for number in range(90):
        ids = {"trace_id": f"{number + 1:032x}", "span_id": f"{number + 1:016x}"}
        features = {"age": number, "late": number} if number > 60 else {"age": number}
        book.consume(an_op(success=number % 3 > 0, features=features, **ids))
    rows = book.take_dirty()
    state.save({"learning": {key: lists_instead_of_bytes(row) if "/fill" in key else row for key, row in rows.items()}})
    state.save({"learning": {"rules/odd": b'{"n":1}'}})
    await state.copy_to(tmp_path / NAME)
    with closing(sqlite3.connect(tmp_path / NAME)) as older:
        assert b'"early": [[' in older.execute("SELECT body FROM learning WHERE key = 'rules//fill'").fetchone()[0]
        older.execute("PRAGMA user_version = 11")
    copy = load_copy(tmp_path / NAME)
    assert copy is not None
    assert copy.covered == Covered(70, 7)
    kept = {key: json.loads(row) for key, row in copy.rows["learning"].items()}
    assert kept == {key: json.loads(row) for key, row in rows.items()} | {"rules/odd": {"n": 1}}
    assert load_copy(tmp_path / NAME) == copy
