"""A commit batch: the records that are written together, and the receipt of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from sidecar.errors import JournalError
from sidecar.open_place import WAY_BACK, FileGoneError

R = TypeVar("R")


class Batch(Generic[R]):
    """Records written together, awaited on *loop*. *error*, set before *settled*, is why they are not in the file."""

    __slots__ = ("error", "left", "lines", "loop", "opened_at", "receipts", "settled", "size", "waiters", "written")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.opened_at = 0.0
        self.lines: list[bytes] = []
        self.receipts: list[CommitReceipt[R]] = []
        self.size = 0
        self.written = False
        self.settled = False
        self.error: Exception | None = None
        self.waiters: list[asyncio.Future[None]] = []
        self.left: Iterator[tuple[CommitReceipt[R], bytes]] = iter(())  # settled, not yet handed downstream


class CommitReceipt(msgspec.Struct, Generic[R], eq=False):
    """The promise that one record will be in the file, with the *batch* that it is in."""

    op: R
    batch: Batch[R]
    awaited: bool

    @property
    def taken(self) -> bool | None:
        """Whether the record is in the file; None while that is undecided."""
        return self.batch.error is None if self.batch.settled else None

    async def wait(self) -> None:
        """Return once the record is in the file. Raises JournalError if it is not, or not in time."""
        batch = self.batch
        if not batch.settled and batch.loop is not None:
            waiter = batch.loop.create_future()  # get_running_loop() would make a getpid system call each time
            batch.waiters.append(waiter)
            await waiter
        if batch.error is not None:
            fix = WAY_BACK if isinstance(batch.error, FileGoneError) else "look at OBSERVER_DATA_DIR's disk"
            raise JournalError(
                "the journal did not accept the record",
                str(batch.error),
                f"Send it again later; {fix}",
            ) from batch.error


def release(batch: Batch[R], failure: Exception | None = None) -> None:
    """Wake everybody who waits for *batch*, on the loop: it has settled, or *failure* is the reason it has not."""
    waiters, batch.waiters = batch.waiters, []
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(
                JournalError("the journal is stalled", str(failure), "Send it again later; look at the disk")
            )
