"""The outbox: each post arrives once by its key, whatever the gateway answers and however the observer ends."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from sidecar.clock import rfc3339_ms
from sidecar.errors import RetryableError
from sidecar.export.outbox import LOOK_S, MAX_AGE_NS, Outbox
from sidecar.export.pacing import CAP_S
from sidecar.model import PostOutcome
from sidecar.store import outbox_rows
from sidecar.store.outbox_table import OutboxTable
from sidecar.store.state import StateStore
from tests.fakes import ManualClock
from tests.outbox_bench import Gateway, HastyClock, Life, a_life, rows

DAY_S = 24 * 3600.0
_answers = st.lists(
    st.sampled_from(["200", "500", "429 7", "429 99999", "hang", "lost", "refused", "bug"]), max_size=12
)


@settings(deadline=None, max_examples=60)
@given(answers=_answers, lives=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=4))
def test_each_post_arrives_once_by_its_key_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, answers: list[str], lives: list[tuple[int, int, bool]]
) -> None:
    """Any answers, any number of ends by stop or kill, everything put again at each start: none missing, none twice."""
    folder, expected = tmp_path_factory.mktemp("outbox"), set[bytes]()

    async def live() -> None:
        gateway, clock = Gateway(answers), HastyClock()
        for number, (posts, attempts, killed) in enumerate([*lives, (1, 0, False)]):
            is_last = number == len(lives)
            async with a_life(folder, gateway, clock, killed=killed) as life:
                names = [f"{life_number}-{n}" for life_number in range(number + 1) for n in range(posts)]
                await life.put(*names)
                expected.update(b'{"operation":"%b"}' % name.encode() for name in names)
                enough = len(gateway.asked) + attempts
                await gateway.until(partial(_is_over, gateway, enough, expected))
                if is_last:
                    await gateway.until(lambda: set(gateway.taken) == expected)
                    while (await life.table.look(clock.time_ns())).waiting:
                        await life.outbox.idle()
        assert len(gateway.taken) == len(expected)

    asyncio.run(live())
    assert {state for state, _ in rows(folder)} <= {"done"}


def _is_over(gateway: Gateway, attempts: int, expected: set[bytes]) -> bool:
    return len(gateway.asked) >= attempts or set(gateway.taken) == expected


async def test_posts_go_out_oldest_first_and_once(tmp_path: Path) -> None:
    """The same content is one post, also when it was taken already."""
    gateway = Gateway()
    async with a_life(tmp_path, gateway) as life:
        await life.put("a", "b", "a", "c")
        await gateway.until(lambda: len(gateway.taken) == 3)
        await life.outbox.idle()
        await life.put("a")
        await life.outbox.idle()
        assert (life.outbox.delivered, life.outbox.waiting, life.outbox.oldest_s) == (3, 0, 0.0)
    async with a_life(tmp_path, gateway) as life:
        await life.put("b")
        await life.outbox.idle()
    assert gateway.asked == [b'{"operation":"a"}', b'{"operation":"b"}', b'{"operation":"c"}']


async def test_a_refusal_makes_a_dead_letter_at_once_and_the_key_stays_known(tmp_path: Path) -> None:
    """One attempt; the same content put again is none; the others go on."""
    gateway = Gateway(["400"])
    with capture_logs() as logs:
        async with a_life(tmp_path, gateway) as life:
            await life.put("bad", "good")
            await gateway.until(lambda: len(gateway.taken) == 1)
            await life.put("bad")
            await life.outbox.idle()
            assert (life.outbox.dead, life.outbox.failed, life.outbox.lost) == (1, 1, 0)
    assert [state for state, _ in rows(tmp_path)] == ["dead", "done"]
    assert [each["event"] for each in logs] == ["outbox.dead_letter"]


async def test_after_a_day_a_post_is_given_up(tmp_path: Path) -> None:
    """Backed off between, up to five minutes; said once when it begins and once when it ends."""
    gateway = Gateway()
    gateway.always = lambda _body: "500"
    clock = HastyClock()
    with capture_logs() as logs:
        async with a_life(tmp_path, gateway, clock) as life:
            start_ns = clock.time_ns()
            await life.put("a")
            await gateway.asked_again()
            await clock.sleep(DAY_S - 3600)
            while not life.outbox.dead:
                await gateway.asked_again()
                await life.outbox.idle()
            assert DAY_S <= (clock.time_ns() - start_ns) / 1e9 < DAY_S + 2 * CAP_S
    assert 3600 / CAP_S < len(gateway.asked) < 3600 / CAP_S * 4
    assert [each["event"] for each in logs] == ["outbox.refused", "outbox.dead_letter"]


async def test_a_post_that_fails_by_a_bug_costs_itself(tmp_path: Path) -> None:
    """It backs off like any other, and those behind it are taken meanwhile."""
    gateway = Gateway()
    gateway.always = lambda body: "bug" if b"poison" in body else None
    async with a_life(tmp_path, gateway) as life:
        await life.put("poison", *"abcdefgh")
        await gateway.until(lambda: len(gateway.taken) == 8)
    assert Counter(state for state, _ in rows(tmp_path)) == {"waiting": 1, "done": 8}


async def test_retry_after_holds_all_posts_and_a_person_goes_before(tmp_path: Path) -> None:
    """Nobody is asked while the gateway wants to be left alone, but for what a person wants now."""
    gateway, clock = Gateway(["429 600"]), ManualClock()
    async with a_life(tmp_path, gateway, clock) as life:
        await life.put("a", "b")
        await gateway.until(lambda: len(gateway.asked) == 1)
        await life.outbox.idle()
        await clock.advance(500)
        await life.outbox.idle()
        assert len(gateway.asked) == 1
        with closing(sqlite3.connect(tmp_path / "state.db")) as other, other:
            outbox_rows.retry(other, [2], clock.time_ns())
        await clock.advance(LOOK_S)
        await gateway.until(lambda: len(gateway.taken) == 1)
        assert gateway.taken == [b'{"operation":"b"}']
        while len(gateway.taken) < 2:
            await clock.advance(LOOK_S)
    assert [state for state, _ in rows(tmp_path)] == ["done", "done"]


async def test_a_dead_gateway_is_not_stormed_and_its_return_is_noticed_by_all(tmp_path: Path) -> None:
    """A hundred posts are as few attempts as one or so; once one that failed is taken, all are due."""
    gateway, clock = Gateway(), HastyClock()
    gateway.always = lambda _body: "refused"
    with capture_logs() as logs:
        async with a_life(tmp_path, gateway, clock) as life:
            await life.put(*(str(number) for number in range(100)))
            end_ns = clock.time_ns() + 3600 * 10**9
            while clock.time_ns() < end_ns:
                await gateway.asked_again()
            assert len(gateway.asked) < 60
            gateway.always = lambda _body: None
            await gateway.until(lambda: len(gateway.taken) == 100)
            assert clock.time_ns() < end_ns + 2 * CAP_S * 10**9
    assert [each["event"] for each in logs] == ["outbox.refused", "outbox.recovered"]


async def test_stop_lets_the_post_in_flight_end_and_leaves_the_rest(tmp_path: Path) -> None:
    """What waits is sent after the next start."""
    gateway = Gateway()
    gateway.open_gate.clear()
    async with a_life(tmp_path, gateway, ManualClock()) as life:
        await life.put("a", "b")
        await gateway.until(lambda: len(gateway.asked) == 1)
        stopping = asyncio.create_task(life.outbox.stop())
        await asyncio.sleep(0)
        assert not stopping.done()
        gateway.open_gate.set()
        await stopping
    assert [state for state, _ in rows(tmp_path)] == ["done", "waiting"]
    async with a_life(tmp_path, gateway):
        await gateway.until(lambda: len(gateway.taken) == 2)


async def test_a_hanging_post_does_not_hold_a_stop_and_is_repeated_at_the_next_start(tmp_path: Path) -> None:
    """It has a second. What was sent of it may have been taken, so its key is the same."""
    gateway, clock = Gateway(), ManualClock()
    gateway.open_gate.clear()
    async with a_life(tmp_path, gateway, clock) as life:
        await life.put("a", "b")
        await gateway.until(lambda: len(gateway.asked) == 1)
        stopping = asyncio.create_task(life.outbox.stop())
        await clock.advance(0)
        await clock.advance(0.5)
        assert not stopping.done()
        await clock.advance(0.6)
        await stopping
        assert (life.outbox.failed, len(gateway.asked)) == (0, 1)
    assert [state for state, _ in rows(tmp_path)] == ["waiting", "waiting"]
    gateway.open_gate.set()
    async with a_life(tmp_path, gateway):
        await gateway.until(lambda: len(gateway.taken) == 2)
    assert gateway.asked == [b'{"operation":"a"}', b'{"operation":"a"}', b'{"operation":"b"}']


async def test_a_hanging_post_is_cut_off_by_the_deadline_of_the_stop(tmp_path: Path) -> None:
    """It is not lost."""
    gateway = Gateway()
    gateway.open_gate.clear()
    async with a_life(tmp_path, gateway, ManualClock()) as life:
        await life.put("a")
        await gateway.until(lambda: len(gateway.asked) == 1)
        stopping = asyncio.create_task(life.outbox.stop())
        await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait([stopping])
    assert rows(tmp_path) == [("waiting", "")]


async def test_what_was_decided_before_the_start_is_put_unless_it_is_there_or_old(tmp_path: Path) -> None:
    """The journal brings back the post that a kill cut off; what would have been given up long ago stays away."""
    gateway, clock = Gateway(), HastyClock()
    async with a_life(tmp_path, gateway, clock) as life:
        await life.put("a")
        await gateway.until(lambda: len(gateway.taken) == 1)
    life = Life(tmp_path, gateway, clock)
    for name, ago_ns in (("a", 0), ("b", 0), ("old", MAX_AGE_NS + 10**9)):
        life.outbox.put_again("test", {"operation": name}, rfc3339_ms(clock.time_ns() - ago_ns))
    async with asyncio.TaskGroup() as tasks:
        await life.outbox.start(tasks)
        await gateway.until(lambda: len(gateway.taken) == 2)
        await life.outbox.stop()
    life.state.close()
    assert gateway.asked == [b'{"operation":"a"}', b'{"operation":"b"}']


async def test_a_disk_that_fails_is_waited_for_and_nothing_is_sent_twice(tmp_path: Path) -> None:
    """The post was taken, writing that down failed: it is written down before anything else is sent."""
    gateway = Gateway()

    class FailingOnce(OutboxTable):
        failures = 3

        async def settle(self, number: int, outcome: PostOutcome) -> int:
            if self.failures:
                self.failures -= 1
                raise RetryableError("state.db was not written", "disk full", "Make room")
            return await super().settle(number, outcome)

    clock = HastyClock()
    state = StateStore(tmp_path, clock)
    state.open()
    outbox = Outbox(FailingOnce(state), gateway, clock, lambda: 0.5)
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            await outbox.start(tasks)
            for name in "ab":
                await outbox.put("test", {"operation": name})
            await gateway.until(lambda: len(gateway.taken) == 2)
            await outbox.stop()
    state.close()
    assert set(gateway.keys.values()) == {1}
    assert [each["event"] for each in logs] == ["outbox.blocked", "outbox.unblocked"]
