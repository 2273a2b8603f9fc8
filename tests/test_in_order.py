"""Ops and decisions reach what learns in the order in which a replay hands them on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping

import pytest

from sidecar.errors import JournalError, RetryableError
from sidecar.model import ObservedOp
from sidecar.store import in_order
from sidecar.store.in_order import InOrder
from tests.fakes import an_op


class Order:
    """A learner that keeps what it is handed, in order; a `work` decision takes three steps."""

    unusable = 0

    def __init__(self) -> None:
        self.seen: list[str] = []

    def consume(self, op: ObservedOp) -> None:
        self.seen.append(op.op_id or "")

    def apply(self, kind: str, body: bytes) -> Iterator[None] | None:
        if kind == "poison":
            raise ValueError(body)
        self.seen.append(body.decode())
        return self._work() if kind == "work" else None

    def _work(self) -> Iterator[None]:
        for step in range(3):
            yield
            self.seen.append(f"step {step}")

    def load(self, rows: Mapping[str, bytes]) -> None: ...
    def prepare(self) -> Iterator[None]:
        yield

    def take_dirty(self) -> dict[str, bytes]:
        return {}

    def put_back(self, keys: Iterable[str]) -> None: ...


class Disk:
    """A decision journal whose writes are finished, or fail, when the test says so."""

    def __init__(self) -> None:
        self.writing: list[tuple[str, bytes, asyncio.Future[None]]] = []
        self.follows: list[str | None] = []

    async def decide(self, kind: str, body: object, follows: str | None) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writing.append((kind, bytes(body), done))  # type: ignore[call-overload]  # it is msgspec.Raw
        self.follows.append(follows)
        await done


class Bench:
    """The order, live, with everything in the test's hand."""

    def __init__(self) -> None:
        self.learner, self.disk = Order(), Disk()
        self.order = InOrder(self.learner)
        self.order.begin(self.disk)
        self._deciding: list[asyncio.Task[None]] = []

    async def decide(self, kind: str, body: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self.order.decide(kind, body))
        self._deciding.append(task)
        await asyncio.sleep(0)
        return task

    def op(self, *names: str) -> None:
        for name in names:
            self.order.consume(an_op(op_id=name))

    async def written(self) -> None:
        """The oldest write is in the file: it takes effect, and its sender is told."""
        kind, body, done = self.disk.writing.pop(0)
        self.order.apply(kind, body)
        done.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_ops_that_settle_while_a_decision_is_written_come_after_it() -> None:
    """Live as in a replay: behind the op that it follows, before all that settled later."""
    bench = Bench()
    bench.op("a")
    await bench.decide("plain", "first")
    bench.op("b")
    await bench.decide("plain", "second")
    bench.op("c")
    assert (bench.learner.seen, bench.disk.follows) == (["a"], ["a", "b"])
    await bench.written()
    assert bench.learner.seen == ["a", '"first"', "b"]
    await bench.written()
    assert bench.learner.seen == ["a", '"first"', "b", '"second"', "c"]
    bench.op("d")
    assert bench.learner.seen[-1] == "d"


async def test_a_decisions_work_is_done_before_anything_else() -> None:
    """In steps, with ops and decisions waiting meanwhile."""
    bench = Bench()
    await bench.decide("work", "learn")
    await bench.written()
    bench.op("a")
    await bench.decide("plain", "then")
    await bench.written()
    assert bench.learner.seen == ['"learn"']
    await bench.order.caught_up()
    assert bench.learner.seen == ['"learn"', "step 0", "step 1", "step 2", "a", '"then"']
    assert bench.order.waiting == 0


async def test_a_write_that_fails_holds_nothing_up() -> None:
    """Its sender is told; the ops behind it go on, and it never takes effect."""
    bench = Bench()
    deciding = await bench.decide("plain", "lost")
    bench.op("a")
    bench.disk.writing.pop()[2].set_exception(JournalError("no", "disk full", "Make room"))
    with pytest.raises(JournalError):
        await deciding
    assert bench.learner.seen == ["a"]


async def test_a_poison_decision_costs_itself() -> None:
    """It is counted, and what waits behind it goes on."""
    bench = Bench()
    await bench.decide("poison", "bad")
    bench.op("a")
    await bench.written()
    assert (bench.learner.seen, bench.order.failures) == (["a"], 1)


async def test_a_quiet_block_waits_for_what_is_under_way_and_holds_off_the_rest() -> None:
    """Within it all that has settled was learnt; a decision that comes then is made afterwards."""
    bench = Bench()
    await bench.decide("work", "learn")
    bench.op("a")

    async def save() -> list[str]:
        async with bench.order.quiet():
            return list(bench.learner.seen)

    saving = asyncio.create_task(save())
    await asyncio.sleep(0)
    await bench.decide("plain", "later")
    assert len(bench.disk.writing) == 1
    await bench.written()
    assert await saving == ['"learn"', "step 0", "step 1", "step 2", "a"]
    await asyncio.sleep(0)
    assert len(bench.disk.writing) == 1


@pytest.mark.parametrize(("bound", "most"), [("MOST_WAITING", 10), ("MOST_WAITING_BYTES", 2000)])
async def test_a_disk_that_hangs_costs_the_order_not_the_memory(
    monkeypatch: pytest.MonkeyPatch, bound: str, most: int
) -> None:
    """Past either bound what waits is handed on, and counted as out of order."""
    monkeypatch.setattr(in_order, bound, most)
    bench = Bench()
    await bench.decide("plain", "stuck")
    bench.op(*map(str, range(30)))
    await bench.order.caught_up()
    assert bench.learner.seen == [str(number) for number in range(30)]
    assert bench.order.unordered > 0
    await bench.written()
    assert bench.learner.seen[-1] == '"stuck"'


async def test_nothing_is_decided_before_the_journals_are_read() -> None:
    """And what the journals say goes straight through, work included."""
    learner = Order()
    order = InOrder(learner)
    with pytest.raises(RetryableError):
        await order.decide("plain", "early")
    order.apply("work", b'"learn"')
    order.consume(an_op(op_id="a"))
    assert learner.seen == ['"learn"', "step 0", "step 1", "step 2", "a"]


async def test_what_has_been_handed_on_does_not_count_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than the bound wait over time, never at once: the order is kept."""
    monkeypatch.setattr(in_order, "MOST_WAITING_BYTES", 2000)
    bench = Bench()
    for number in range(10):
        await bench.decide("plain", f"d{number}")
        bench.op(*(f"{number}-{each}" for each in range(5)))
        await bench.written()
    assert (bench.order.waiting, bench.order.unordered) == (0, 0)
    assert bench.learner.seen == [
        each for number in range(10) for each in (f'"d{number}"', *(f"{number}-{op}" for op in range(5)))
    ]
