"""The live feed gives every watcher what it wants, and a slow one loses its own oldest only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from sidecar.errors import OverloadedError
from sidecar.model import ObservedOp
from sidecar.store.feed import OpFeed, Subscription


def an_op(number: int) -> ObservedOp:
    return ObservedOp(
        timestamp="2026-11-23T10:00:00.250Z",
        endpoint=f"/{number}",
        input_summary="",
        success=number % 2 == 0,
        duration_ms=number,
        output_summary="",
    )


def everything(_: ObservedOp) -> bool:
    return True


async def following(batches: AsyncIterator[list[ObservedOp]]) -> list[int | float]:
    return [op.duration_ms for op in await anext(batches)]


async def test_watchers_get_what_they_want_in_order() -> None:
    """Two watchers see the same ops, each through its own filter."""
    feed = OpFeed()
    with feed.watch(everything) as all_ops, feed.watch(lambda op: not op.success) as failures:
        assert feed.watchers == 2
        for number in range(4):
            feed.consume(an_op(number))
        assert await following(all_ops.batches(60)) == [0, 1, 2, 3]
        assert await following(failures.batches(60)) == [1, 3]
    assert feed.watchers == 0


async def test_a_waiting_watcher_wakes_when_an_op_arrives() -> None:
    """Nothing polls: the op itself ends the wait, again and again."""
    feed = OpFeed()
    with feed.watch(everything) as watcher:
        batches = watcher.batches(60)
        for number in range(3):
            waiting = asyncio.ensure_future(following(batches))
            await asyncio.sleep(0)
            assert not waiting.done()
            feed.consume(an_op(number))
            assert await waiting == [number]


async def test_silence_gives_an_empty_batch() -> None:
    """After the idle time there is a batch without ops: the moment for a keep-alive; ops go on arriving after it."""
    feed = OpFeed()
    with feed.watch(everything) as watcher:
        batches = watcher.batches(0.001)
        assert await anext(batches) == []
        feed.consume(an_op(1))
        assert await following(batches) == [1]


async def test_a_slow_watcher_loses_its_oldest_counted() -> None:
    """A queue is bounded: the newest stay, the rest is counted, also after the watcher has gone."""
    feed = OpFeed()
    with feed.watch(everything) as slow:
        for number in range(1500):
            feed.consume(an_op(number))
        assert (slow.missed, feed.missed) == (500, 500)
        assert await following(slow.batches(60)) == list(range(500, 1500))
    assert feed.missed == 500


async def test_a_slow_watcher_of_large_ops_loses_its_oldest_counted() -> None:
    """A queue is bounded in bytes too: a thousand ops of a mebibyte would be a gibibyte."""
    feed = OpFeed()
    with feed.watch(everything) as slow:
        for number in range(9):
            feed.consume(msgspec.structs.replace(an_op(number), input_summary="x" * 2**20))
        assert slow.missed == 6
        assert await following(slow.batches(60)) == [6, 7, 8]


async def test_the_number_of_watchers_is_bounded() -> None:
    """One too many is refused, and may come back when another has left."""
    feed = OpFeed(most=1)
    with feed.watch(everything), pytest.raises(OverloadedError), feed.watch(everything):
        pass
    with feed.watch(everything):
        assert feed.watchers == 1


async def test_closing_ends_every_watch_after_its_last_op() -> None:
    """What had arrived is still given; a watch that begins afterwards ends at once."""
    feed = OpFeed()
    with feed.watch(everything) as watcher:
        feed.consume(an_op(7))
        feed.close()
        assert [len(batch) async for batch in watcher.batches(60)] == [1]
    with feed.watch(everything) as late:
        assert [batch async for batch in late.batches(60)] == []


async def test_closing_wakes_who_waits() -> None:
    """A watcher without ops does not sit out its idle time."""
    watcher = Subscription(everything)

    async def watch() -> int:
        return len([batch async for batch in watcher.batches(60)])

    waiting = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    watcher.close()
    assert await waiting == 0
