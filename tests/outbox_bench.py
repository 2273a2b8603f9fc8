"""Shared by the outbox tests: a gateway with configured answers, and runs of an outbox on a real state file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from sidecar.errors import GatewayLogError, NotOfferedError, PostRefusedError
from sidecar.export.outbox import Outbox
from sidecar.store.outbox_table import OutboxTable
from sidecar.store.state import StateStore
from tests.fakes import ManualClock


class HastyClock(ManualClock):
    """A clock whose sleeps return at once, having moved the time on."""

    async def sleep(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)
        await asyncio.sleep(0)


class Gateway:
    """A `GatewayLog` that answers by *answers* in order, then always 200, and counts accepted posts by key."""

    def __init__(self, answers: Sequence[str] = ()) -> None:
        self.answers = list(answers)
        self.keys: Counter[str] = Counter()  # accepted posts by key, repeats included
        self.taken: list[bytes] = []  # accepted bodies, each key only once
        self.asked: list[bytes] = []
        self.always: Callable[[bytes], str | None] = lambda _body: None
        self.changed = asyncio.Condition()
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    async def post(self, key: str, path: str, body: bytes) -> None:
        assert path == "/log"
        self.asked.append(body)
        answer = self.always(body) or (self.answers.pop(0) if self.answers else "200")
        async with self.changed:
            self.changed.notify_all()
        await self.open_gate.wait()
        if answer in ("200", "lost"):  # lost: accepted, but the answer does not arrive
            if not self.keys[key]:
                self.taken.append(body)
            self.keys[key] += 1
        async with self.changed:
            self.changed.notify_all()
        if answer == "200":
            return
        if answer == "bug":
            raise RuntimeError("a bug")
        if answer == "400":
            raise PostRefusedError("refused", "HTTP status 400", "Nothing")
        if answer == "404":
            raise NotOfferedError("not offered", "HTTP status 404", "Nothing")
        after = float(answer.partition(" ")[2]) if answer.startswith("429") else None
        raise GatewayLogError("no post", answer, "Nothing", after)

    async def asked_again(self) -> None:
        before = len(self.asked)
        await self.until(lambda: len(self.asked) > before)

    async def until(self, met: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(met)


class Life:
    """One run of the outbox on the state file in a folder."""

    def __init__(self, folder: Path, gateway: Gateway, clock: ManualClock) -> None:
        self.state = StateStore(folder, clock)
        self.state.open()
        self.gateway, self.clock = gateway, clock
        self.table = OutboxTable(self.state)
        self.outbox = Outbox(self.table, gateway, clock, lambda: 0.5)

    async def put(self, *names: str) -> None:
        for name in names:
            await self.outbox.put("test", {"operation": name})


@asynccontextmanager
async def a_life(
    folder: Path, gateway: Gateway, clock: ManualClock | None = None, *, killed: bool = False
) -> AsyncIterator[Life]:
    """A running outbox, stopped in order at the end of the block, or *killed* at whatever point it is."""
    life = Life(folder, gateway, clock or HastyClock())
    async with asyncio.TaskGroup() as tasks:
        await life.outbox.start(tasks)
        try:
            yield life
        finally:
            if killed and life.outbox._task is not None:
                life.outbox._task.cancel()
                await asyncio.wait([life.outbox._task])
            else:
                await life.outbox.stop()
    life.state.close()


def rows(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(folder / "state.db")) as connection:
        return list(connection.execute("SELECT state, error FROM outbox ORDER BY number"))
