"""A commit log over an in-memory file that blocks or fails as a test configures, and counts calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from sidecar.clock import SystemClock
from sidecar.protocols import Clock
from sidecar.store.commit_batch import CommitReceipt
from sidecar.store.commit_log import CommitLog
from sidecar.store.journal_file import opened


class GatedFile:
    """An in-memory journal file: writes wait while `gate` is shut, and raise `failure` if set. Syncs are counted."""

    def __init__(self) -> None:
        self.size = 0
        self.appends: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.synced = threading.Event()
        self.failure: Exception | None = None
        self.sync_failure: Exception | None = None
        self.syncs = 0
        self.closed = 0

    def append(self, data: bytes) -> None:
        self.entered.release()
        self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.appends.append(data)
        self.size += len(data)

    def sync(self) -> None:
        self.syncs += 1
        self.synced.set()
        if self.sync_failure is not None:
            raise self.sync_failure

    def close(self) -> None:
        self.closed += 1

    @property
    def words(self) -> list[list[str]]:
        """The words of each append."""
        return [[word(line) for line in data.splitlines()] for data in self.appends]


class KeptWords:
    """A downstream that keeps its words; the word *poison* makes it raise ValueError."""

    def __init__(self, poison: str = "") -> None:
        self.words: list[str] = []
        self._poison = poison

    def consume_all(self, ops: Sequence[str], lines: Sequence[bytes]) -> None:
        assert [word(line[:-1]) for line in lines] == list(ops)
        for op in ops:
            if op == self._poison:
                raise ValueError(op)
            self.words.append(op)


def encoded(text: str) -> bytes:
    return b'{"w":"%b"}' % text.encode()


def word(line: bytes) -> str:
    record = opened(line)
    assert record is not None
    return record[6:-2].decode()


class Journal:
    """A commit log over a `GatedFile`, with its downstream."""

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        max_bytes: int = 10**6,
        sync_every_s: float | None = None,
        poison: str = "",
    ) -> None:
        self.file = GatedFile()
        self.downstream = KeptWords(poison)
        self.log: CommitLog[str] = CommitLog(
            "words",
            lambda: self.file,
            encoded,
            self.downstream,
            clock or SystemClock(),
            max_bytes=max_bytes,
            sync_every_s=sync_every_s,
            commit_timeout_s=10.0,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the log for the length of the block; its end opens the gate."""
        async with asyncio.TaskGroup() as tasks:
            await self.log.start(tasks)
            try:
                yield
            finally:
                self.file.gate.set()
                await self.log.stop()

    def append(self, text: str, *, awaited: bool = True) -> CommitReceipt[str]:
        receipt = self.log.append(text, awaited=awaited)
        assert receipt is not None
        return receipt

    async def writing(self, text: str, *, awaited: bool = True) -> CommitReceipt[str]:
        """Append *text* and wait until its write is under way, at the closed gate."""
        self.file.gate.clear()
        receipt = self.append(text, awaited=awaited)
        await asyncio.to_thread(self.file.entered.acquire)
        return receipt


async def settled(*receipts: CommitReceipt[str]) -> list[BaseException | None]:
    return await asyncio.gather(*(receipt.wait() for receipt in receipts), return_exceptions=True)


async def turns() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)
