"""Gives the learner ops and decisions in one order, the same live and in a replay.

A replay applies a decision after the ops that were settled when it was made. Live, more ops settle while the decision
is being written: they wait here until it has taken effect. Sits between the two journals and the learner. In a replay
nothing waits, and everything is passed straight through.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec
import structlog

from sidecar.errors import RetryableError
from sidecar.kept_rows import KeptBook, Saved
from sidecar.model import ObservedOp
from sidecar.protocols import DecisionLog, OpConsumer

log = structlog.get_logger(__name__)

MOST_WAITING = 20_000  # ops; beyond it the order is given up, to bound memory
MOST_WAITING_BYTES = 16 * 2**20  # the same bound in bytes
_AT_ONCE = 50  # items in a row, about half a millisecond
_CATCH_UP = 3  # items handed on per arriving op, while others wait


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ObservedOp).decode


class Learner(Saved, OpConsumer, Protocol):
    """State derived from ops and decisions in their order."""

    def apply(self, kind: str, body: bytes) -> Iterator[None] | None:
        """Apply a decision. The returned iterator, if any, must be exhausted before anything else is handed on."""
        ...


class _Promised:
    """A decision being written to the journal: *taken* once it is there, *failed* if it will not be."""

    __slots__ = ("body", "failed", "kind", "taken")

    def __init__(self, kind: str, body: bytes, *, taken: bool = False) -> None:
        self.kind, self.body, self.taken, self.failed = kind, body, taken, False


class InOrder(KeptBook):
    """A `Derived` in front of *learner*, and a `DecisionLog` in front of another. Passes all through until `begin`.

    `unordered` counts ops handed on before a decision that a replay will apply before them, because the disk hung.
    All methods belong to the event loop's thread.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        self._learner = learner
        self._log: DecisionLog | None = None
        self._waiting: deque[bytes | _Promised] = deque()  # ops as JSON: a quarter of what their objects take
        self._waiting_bytes = 0
        self._promised: deque[_Promised] = deque()  # the waiting decisions that are not in the journal yet
        self._work: Iterator[None] | None = None
        self._deciding = 0
        self._settled = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._last_op_id: str | None = None
        self.failures = 0  # decisions that could not be applied
        self.unordered = 0

    def begin(self, decisions: DecisionLog) -> None:
        """The journals have been replayed: write to *decisions*, and hold back ops that settle during a write."""
        self._log = decisions

    def consume(self, op: ObservedOp) -> None:
        """Hand *op* on, or queue it behind what it has to wait for."""
        if op.op_id is not None:
            self._last_op_id = op.op_id
        if not self._waiting and self._work is None:
            self._learner.consume(op)
            return
        encoded = _encode(op)
        self._waiting.append(encoded)
        self._waiting_bytes += len(encoded)
        if len(self._waiting) > MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES:
            self._give_up()
        self._hand_on(_CATCH_UP)

    async def decide(self, kind: str, body: object, _follows: str | None = None) -> None:
        """Write a decision that follows the ops settled so far. Raises JournalError if it is not in the file.

        It takes effect before any op that settles later.
        """
        if self._log is None:
            raise RetryableError(
                "no decision can be made now", "the observer is starting or stopping", "Try again later"
            )
        await self._open.wait()
        encoded = msgspec.json.encode(body)
        promised = _Promised(kind, encoded)
        self._waiting.append(promised)
        self._promised.append(promised)
        self._deciding += 1
        self._settled.clear()
        try:
            await self._log.decide(kind, msgspec.Raw(encoded), self._last_op_id)
        except BaseException:
            if not promised.taken and promised in self._promised:
                self._promised.remove(promised)  # if it is written after all, `apply` treats it as new
                promised.failed = True
            raise
        finally:
            self._deciding -= 1
            if not self._deciding:
                self._settled.set()
            self._hand_on(_AT_ONCE)

    def apply(self, kind: str, body: bytes) -> None:
        """A decision is in the journal: apply it at its place in the order."""
        found = next((each for each in self._promised if each.kind == kind and each.body == body), None)
        if found is not None:
            self._promised.remove(found)
            found.taken = True
        else:
            self._waiting.append(_Promised(kind, body, taken=True))
        if self._log is None:  # in a replay nothing waits
            for _ in self.steps():
                pass
        else:
            self._hand_on(_AT_ONCE)

    def steps(self) -> Iterator[None]:
        """Do all that can be done, yielding after each small step."""
        while True:
            if self._work is not None:
                self._work_on()
            elif not self._hand_on(_AT_ONCE):
                return
            yield

    async def caught_up(self) -> None:
        """Return once every decision in the journal has taken effect."""
        for _ in self.steps():
            await asyncio.sleep(0)

    @asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """A block in which nothing is in flight: the learner has seen all that has settled, and nothing else.

        The block must not await anything.
        """
        self._open.clear()
        try:
            while self._deciding:
                await self._settled.wait()
            await self.caught_up()
            yield
        finally:
            self._open.set()

    @property
    def waiting(self) -> int:
        """The number of waiting ops and decisions."""
        return len(self._waiting)

    def _hand_on(self, most: int) -> int:
        """Hand on what may go, at most *most* items. Returns how many went."""
        done = 0
        while self._waiting and self._work is None and done < most:
            item = self._waiting[0]
            if isinstance(item, bytes):
                self._waiting.popleft()
                self._waiting_bytes -= len(item)
                self._learner.consume(_decode(item))
            elif item.taken or item.failed:
                self._waiting.popleft()
                if item.taken:
                    self._take(item)
            else:
                break
            done += 1
        return done

    def _take(self, item: _Promised) -> None:
        try:
            self._work = self._learner.apply(item.kind, item.body)
        except Exception:
            self.failures += 1
            log.exception("decision.not_applied", kind=item.kind)

    def _work_on(self) -> None:
        try:
            next(self._work)  # type: ignore[arg-type]  # the caller has checked for None
        except StopIteration:
            self._work = None
        except Exception:
            self._work = None
            self.failures += 1
            log.exception("learning.step_failed")

    def _give_up(self) -> None:
        """Too much is waiting: finish the current work, and stop waiting for decisions that are not written yet."""
        while self._work is not None:
            self._work_on()
        promised, self._promised = self._promised, deque()
        for item in promised:
            item.failed = True
        if promised:
            self.unordered += len(self._waiting)
            log.error("learning.order_given_up", ops=len(self._waiting), decisions=len(promised))
