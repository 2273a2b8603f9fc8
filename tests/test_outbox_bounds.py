"""The bounds of the outbox: how many wait, are dead, are remembered; how long a wait is; what its rows hold."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar.export.pacing import BASE_S, CAP_S, MAX_RETRY_AFTER_S, Pacing
from sidecar.model import Post
from sidecar.store import outbox_rows
from sidecar.store.state import StateStore
from tests.fakes import ManualClock
from tests.outbox_bench import Gateway, HastyClock, a_life, rows


async def test_a_full_outbox_refuses_the_newest_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was promised stays; the line is logged once."""
    monkeypatch.setattr(outbox_rows, "MAX_WAITING", 3)
    gateway = Gateway()
    gateway.open_gate.clear()
    with capture_logs() as logs:
        async with a_life(tmp_path, gateway, ManualClock()) as life:
            await life.put(*"abcdea")
            assert (life.outbox.lost, life.outbox.waiting) == (2, 3)
            gateway.open_gate.set()
            await gateway.until(lambda: len(gateway.taken) == 3)
    assert [each["event"] for each in logs] == ["outbox.filled"]


async def test_dead_letters_and_known_keys_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest make room: of the dead letters counted as lost, of the keys by number and by age."""
    monkeypatch.setattr(outbox_rows, "MAX_DEAD", 2)
    monkeypatch.setattr(outbox_rows, "MAX_DONE", 3)
    gateway, clock = Gateway(["400"] * 5), HastyClock()
    async with a_life(tmp_path, gateway, clock) as life:
        await life.put(*"abcdefghijk")
        await gateway.until(lambda: len(gateway.taken) == 6)
        await life.outbox.idle()
        assert (life.outbox.dead, life.outbox.lost) == (2, 3)
        assert Counter(state for state, _ in rows(tmp_path)) == {"dead": 2, "done": 3}
        await clock.sleep(outbox_rows.KEEP_DONE_NS / 1e9 + 1)
        await life.put("z")
        await gateway.until(lambda: len(gateway.taken) == 7)
        await life.outbox.idle()
    assert Counter(state for state, _ in rows(tmp_path)) == {"dead": 2, "done": 1}


async def test_a_clock_that_was_set_back_does_not_hold_a_post(tmp_path: Path) -> None:
    """A post due in the far future is due now."""
    gateway = Gateway(["500"])
    async with a_life(tmp_path, gateway, ManualClock(2 * 10**18)) as life:
        await life.put("a")
        await gateway.until(lambda: len(gateway.asked) == 1)
    async with a_life(tmp_path, gateway, ManualClock(10**18)):
        await gateway.until(lambda: len(gateway.taken) == 1)


async def test_a_stalled_disk_blocks_no_one_else(tmp_path: Path) -> None:
    """Another process holds the file: the loop goes on, the post is put when it lets go."""
    async with a_life(tmp_path, Gateway()) as life:
        await life.outbox.idle()
        with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            putting = asyncio.create_task(life.put("a"))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not putting.done()
            other.execute("ROLLBACK")
        await putting


@given(
    st.lists(st.tuples(st.integers(0, 5), st.none() | st.floats(0, allow_nan=False)), max_size=50), st.floats(0, 0.999)
)
def test_every_wait_is_bounded(failures: list[tuple[int, float | None]], dice: float) -> None:
    """By five minutes, or by an hour where the gateway asks for more; the first by a second."""
    pacing = Pacing(ManualClock(), lambda: dice)
    for attempts, (number, retry_after_s) in enumerate(failures, 1):
        wait_s = pacing.failed(number, attempts, retry_after_s, "no")
        asked_s = min(retry_after_s or 0.0, MAX_RETRY_AFTER_S)
        assert asked_s <= wait_s <= max(asked_s, min(CAP_S, BASE_S * 2.0 ** (attempts - 1)))
        assert pacing.held_s <= MAX_RETRY_AFTER_S


def test_an_older_state_file_gets_its_outbox(tmp_path: Path) -> None:
    """Version 1 is brought up to date, and what it holds stays."""
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as older:
        for table in ("cursors (name", "incidents (key", "successes (key", "playbook (key"):
            older.execute(f"CREATE TABLE {table} TEXT PRIMARY KEY, body BLOB NOT NULL)")
        older.execute("INSERT INTO cursors VALUES ('corrections', x'35')")
        older.execute("PRAGMA user_version = 1")
    store = StateStore(tmp_path, ManualClock())
    store.open()
    assert (store.load("cursors"), store.rebuilt) == ({"corrections": b"5"}, False)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        assert outbox_rows.look(connection, 0).waiting == 0
    store.close()


def test_a_row_keeps_all_that_a_post_is(tmp_path: Path) -> None:
    """Also the address, so that posts to others fit."""
    post = Post(key="k", kind="webhook", url="https://example.org/hook", body=b"{}")
    store = StateStore(tmp_path, ManualClock())
    store.open()
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        assert outbox_rows.put(connection, [post, post], 5) == (1, 0)
        queued = outbox_rows.look(connection, 5, post.url).post
        assert outbox_rows.look(connection, 5).post is None  # what is for others is not the gateway's
    store.close()
    assert queued is not None
    assert (queued.key, queued.kind, queued.url, queued.body, queued.since_ns) == (
        post.key,
        post.kind,
        post.url,
        post.body,
        5,
    )


async def test_what_the_gateway_does_not_offer_is_settled_quietly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters and evictions are counted as always, without a line each; a refusal after them has its line."""
    monkeypatch.setattr(outbox_rows, "MAX_DEAD", 2)
    gateway = Gateway(["404"] * 4 + ["400"])
    with capture_logs() as logs:
        async with a_life(tmp_path, gateway) as life:
            await life.put(*"abcd")
            while life.outbox.failed < 4:
                await life.outbox.idle()
            await life.outbox.idle()
            assert (life.outbox.dead, life.outbox.failed, life.outbox.lost) == (2, 4, 2)
            assert logs == []
            await life.put("e")
            await gateway.until(lambda: len(gateway.asked) == 5)
            await life.outbox.idle()
    assert [each["event"] for each in logs] == ["outbox.dead_letter", "outbox.dead_letter_evicted"]
