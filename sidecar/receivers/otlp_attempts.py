"""The progress made on each OTLP request, for `otlp_receiver`: a retry of the same bytes continues from there.

A request has up to three lists of things to do: ops for the journal, requests for the collector's spool, and requests
for a further destination of its door, such as Langfuse. Each list has its own ledger.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from sidecar.errors import JournalError, OverloadedError
from sidecar.protocols import Promise

MOST_UNFINISHED: Final = 64
MOST_RECEIPTS: Final = 20_000
MOST_SAMPLED_BYTES: Final = 16 * 2**20
_MOST_FINISHED: Final = 4096


class Taken(NamedTuple):
    """The outcome of a request: its spans, the rejected ones, and why."""

    spans: int
    rejected: int
    why: str

    def response(self) -> ExportTraceServiceResponse:
        """The protocol's response. Source: OTLP specification, Partial Success."""
        response = ExportTraceServiceResponse()
        if self.rejected:
            response.partial_success.rejected_spans = self.rejected
            response.partial_success.error_message = self.why
        return response


class _Done(NamedTuple):
    """A request that was taken, and whether it also reached its door's further destination."""

    taken: Taken
    also_taken: bool


class Ledger:
    """Receipts for the first things of a list; on a second walk over the list, failed ones are done again."""

    def __init__(self) -> None:
        self._receipts: dict[int, Promise] = {}  # receipts not known to be on disk
        self._count = 0
        self._at = 0

    def __len__(self) -> int:
        return len(self._receipts)

    @property
    def reached(self) -> int:
        """The number of things handed to the disk, whatever the outcome."""
        return self._count

    @property
    def passed(self) -> list[int]:
        """The things with a receipt that this walk has stepped over, oldest first; behind it none has failed yet."""
        return [at for at in self._receipts if at < self._at]

    def begin(self) -> None:
        """Start a walk at the first thing."""
        self._at = 0

    def has_next(self) -> bool:
        """Whether the next thing has a receipt that has not failed; if so, step over it."""
        if self._at >= self._count:
            return False
        receipt = self._receipts.get(self._at)
        has = receipt is None or receipt.taken is not False
        self._at += has
        return has

    def add(self, receipt: Promise | None, why_none: str) -> None:
        """Add the next thing's receipt. Raises OverloadedError if it is None."""
        if receipt is None:
            raise OverloadedError(why_none, "too much waits to be written", "Send it again later")
        self._receipts[self._at] = receipt
        self._at += 1
        self._count = max(self._count, self._at)

    async def settled(self) -> None:
        """Return once all are on disk, and drop the receipts. Raises JournalError if one is not."""
        await self._settle(list(self._receipts))

    async def half_settled(self) -> None:
        """Like `settled`, for the older half of what this walk has passed: what failed ahead of it comes later."""
        passed = self.passed
        await self._settle(passed[: (len(passed) + 1) // 2])

    async def _settle(self, older: list[int]) -> None:
        for at in older:
            await self._receipts[at].wait()
        for at in older:
            del self._receipts[at]

    def shrink(self) -> None:
        """Keep only what a retry needs of each receipt, as an op's receipt holds the op."""
        for at, receipt in list(self._receipts.items()):
            if receipt.taken:
                del self._receipts[at]
            elif receipt.taken is False:
                self._receipts[at] = _FAILED


class Attempt:
    """One request and the progress on it. *users*: tasks that work on it or wait for their turn.

    *sampled* is what sampling made of each piece, bytes and number of spans. It forgets what it gives out, so a second
    walk must not ask it again: it would put together other requests than those that the ledger counts.
    """

    def __init__(self, done: _Done | None = None) -> None:
        self.lock = asyncio.Lock()
        self.users = 0
        self.ops = Ledger()
        self.spooled = Ledger()
        self.also_spooled = Ledger()
        self.sampled: list[tuple[bytes, int]] = []
        self.taken = done.taken if done is not None else None
        self.also_taken = done.also_taken if done is not None else False

    @property
    def receipts(self) -> int:
        """The number of receipts held."""
        return sum(map(len, self._ledgers))

    @property
    def _ledgers(self) -> tuple[Ledger, ...]:
        return self.ops, self.spooled, self.also_spooled

    @property
    def has_rest(self) -> bool:
        """Whether there is progress that a retry must know."""
        if self.taken is None:
            return bool(self.sampled) or any(ledger.reached for ledger in self._ledgers)
        return not self.also_taken and bool(self.also_spooled.reached)

    def is_done(self, *, also: bool) -> bool:
        """Whether nothing is left to do; *also*: including the further destination."""
        return self.taken is not None and (self.also_taken or not also)

    def begin(self) -> None:
        """Start a walk over all lists."""
        for ledger in self._ledgers:
            ledger.begin()

    async def settled(self, *, also: bool) -> None:
        """Return once everything done is on disk. Raises JournalError."""
        await self.ops.settled()
        await self.spooled.settled()
        if also:
            await self.also_spooled.settled()

    def shrink(self) -> None:
        """See `Ledger.shrink`."""
        for ledger in self._ledgers:
            ledger.shrink()


class Attempts:
    """Requests in progress, recently failed ones, and the last finished ones, by a digest of their bytes."""

    def __init__(self) -> None:
        self._unfinished: OrderedDict[bytes, Attempt] = OrderedDict()
        self._finished: OrderedDict[bytes, _Done] = OrderedDict()
        self.forgotten = 0  # failed requests dropped without a retry: a later one repeats what is on disk already

    def done(self, digest: bytes, *, also: bool) -> Taken | None:
        """The outcome of a finished request, else None; *also*: it must have reached the further destination."""
        done = self._finished.get(digest)
        return done.taken if done is not None and (done.also_taken or not also) else None

    @contextmanager
    def at(self, digest: bytes) -> Iterator[Attempt]:
        """The attempt at a request, shared by all who work on it at the same time."""
        attempt = self._unfinished.get(digest)
        if attempt is None:
            attempt = self._unfinished[digest] = Attempt(self._finished.get(digest))
        attempt.users += 1
        try:
            yield attempt
        finally:
            attempt.users -= 1
            if not attempt.users and not attempt.has_rest:
                self._end(digest)

    def forget_some(self, failed: Attempt) -> None:
        """If there are too many failed requests or receipts, drop the oldest, except *failed* and those in use."""
        failed.shrink()
        idle = {digest: attempt for digest, attempt in self._unfinished.items() if not attempt.users}
        if not _are_many(idle):
            return
        for attempt in idle.values():
            attempt.shrink()
        for digest in list(idle):
            if not _are_many(idle):
                return
            del idle[digest]
            self._end(digest)
            self.forgotten += 1

    def _end(self, digest: bytes) -> None:
        attempt = self._unfinished.pop(digest)
        if attempt.taken is not None:
            self._finished[digest] = _Done(attempt.taken, attempt.also_taken)
            if len(self._finished) > _MOST_FINISHED:
                self._finished.popitem(last=False)


def _are_many(idle: dict[bytes, Attempt]) -> bool:
    sampled = sum(len(data) for each in idle.values() for data, _ in each.sampled)
    receipts = sum(each.receipts for each in idle.values())
    return len(idle) > MOST_UNFINISHED or receipts > MOST_RECEIPTS or sampled > MOST_SAMPLED_BYTES


class _Failed:
    """Replaces any receipt that failed."""

    taken = False

    async def wait(self) -> None:
        raise JournalError("the disk did not take it", "it failed before", "Send it again")


_FAILED: Final = _Failed()
