"""Where what Langfuse was told becomes ops: observations that are whole, and the verdicts of scores.

From the doors and the poller, written down first (`book`), then told as ops that go the way of every op. An observation
is an op when it ends, or when its window closes; what is told of it later is an op that amends the first. A score
waits a while for the op it judges: its span may still be on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import structlog

from sidecar.errors import ObserverError, OverloadedError, RetryableError
from sidecar.ids import new_id
from sidecar.langfuse.book import DONE, TOLD, FragmentRow, LangfuseBook, LangfuseDone, ScoreRow, score_key
from sidecar.langfuse.judged_ops import JudgedOp, JudgedOps
from sidecar.langfuse.verdicts import Ruling, Verdicts
from sidecar.model import Fragment, LangfuseTold, ObservedOp, Scalar, Score
from sidecar.protocols import Clock, DecisionLog, FragmentOps, KnownEvents, Receipt, Recorder, SpanWitness
from sidecar.spans.attributes import LANGFUSE_TYPE

log = structlog.get_logger(__name__)

SCORE_WAIT_S: Final = 60.0
UNFINISHED: Final = "unfinished"
"""Stands in `extra` of an op whose end nobody told."""

_LOOK_EVERY_S: Final = 1.0
_SLICE: Final = 16  # items before other tasks get a turn: a millisecond or two
_OWN_WORDS: Final = {"v", "op_id", "trace_id", "span_id", "parent_span_id", "event_id", "amends"}
_SAID: Final = tuple(name for name in ObservedOp.__struct_fields__ if name not in _OWN_WORDS)

K = TypeVar("K")
_Record = Callable[[], Receipt | None]


class LangfuseDesk:
    """A stage, and the `LangfuseInbox`. *window_s*: how long an observation may stay without an end.

    *is_call* says whether an observation is a call, which the gateway's proxy may have seen as well.

    Counters since the start: `recorded` ops, `amended` ones among them, `repeated` tellings that said nothing new,
    `unfinished` observations whose window closed, `failed` rounds, which are made again.
    """

    name = "langfuse"

    def __init__(
        self,
        book: LangfuseBook,
        judged: JudgedOps,
        verdicts: Verdicts,
        *,
        reader: FragmentOps,
        witness: SpanWitness,
        recorder: Recorder,
        decisions: DecisionLog,
        known: KnownEvents,
        is_call: Callable[[ObservedOp], bool],
        clock: Clock,
        window_s: float,
    ) -> None:
        self._book = book
        self._judged = judged
        self._verdicts = verdicts
        self._reader = reader
        self._witness = witness
        self._recorder = recorder
        self._decisions = decisions
        self._known = known
        self._is_call = is_call
        self._clock = clock
        self._window_ns = round(window_s * 1e9)
        self._score_wait_ns = round(SCORE_WAIT_S * 1e9)
        self._working = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.recorded = 0
        self.amended = 0
        self.repeated = 0
        self.unfinished = 0
        self.failed = 0

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin to look at what waits: also what a former run left."""
        self._task = tasks.create_task(self._loop(), name="langfuse-desk")

    async def stop(self) -> None:
        """End the looking; what waits is in the book."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def take(self, told: LangfuseTold) -> None:
        """See `LangfuseInbox`. What cannot be recorded now is on disk, and recorded later."""
        if not told.fragments and not told.scores:
            return
        self._book.check_room(told)
        await self._decisions.decide(TOLD, msgspec.structs.replace(told, taken_ns=self._clock.time_ns()), None)
        await self._round()

    async def observed(self, fragments: Sequence[Fragment]) -> None:
        """See `LangfuseInbox`. What has no end yet is passed over until its window closes: it is pulled again."""
        now_ns = self._clock.time_ns()
        async with self._working:
            await self._settle(self._pulled(fragments, now_ns), [])

    async def scored(self, scores: Sequence[Score]) -> None:
        """See `LangfuseInbox`."""
        await self.take(LangfuseTold(scores=[score for score in scores if not self._knows(score_key(score))]))

    def _knows(self, key: str) -> bool:
        return self._known.knows(key) or self._book.waits(key)

    async def _loop(self) -> None:
        while True:
            await self._round()
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _round(self) -> None:
        async with self._working:
            try:
                await self._work()
            except ObserverError as exc:
                self._failed(exc)
            except Exception:  # a fault of ours costs a round, not the loop
                self.failed += 1
                log.exception("langfuse.round_failed", failures=self.failed)

    def _failed(self, exc: ObserverError) -> None:
        self.failed += 1
        if self.failed & (self.failed - 1) == 0:  # the 1st, 2nd, 4th, 8th …: not one line each
            log.warning("langfuse.not_recorded_yet", error=str(exc), failures=self.failed)

    async def _work(self) -> None:
        """Record what is ready, then write down that it is. What has no room is left for the next round."""
        observations: list[tuple[str, int]] = []
        scores: list[str] = []
        try:
            await self._settle(self._ready_observations(), observations)
            before = -1
            while before < len(scores):  # of several scores of one op each amends what the one before made
                before = len(scores)
                await self._settle(self._ready_scores(frozenset(scores)), scores)
        finally:
            if observations or scores:
                await self._decisions.decide(DONE, LangfuseDone(observations, scores), None)

    async def _settle(self, ready: Iterator[tuple[K, _Record] | None], done: list[K]) -> None:
        """Record each of *ready*; into *done* go those that are in the journal. Raises RetryableError."""
        receipts: list[tuple[K, Receipt | None]] = []
        error: RetryableError | None = None
        for number, item in enumerate(ready, 1):
            if not number % _SLICE:
                await asyncio.sleep(0)
            if item is None:
                continue
            key, record = item
            try:
                receipts.append((key, record()))
            except RetryableError as exc:
                error = exc
                break
            except Exception:  # a poison item costs itself
                log.exception("langfuse.item_not_recorded", item=str(key)[:200])
                receipts.append((key, None))
        for key, receipt in receipts:
            try:
                if receipt is not None:
                    await receipt.wait()
                done.append(key)
            except RetryableError as exc:
                error = exc
        if error is not None:
            raise error

    # --- observations --------------------------------------------------------------------------------------------

    def _ready_observations(self) -> Iterator[tuple[tuple[str, int], _Record] | None]:
        now_ns = self._clock.time_ns()
        for key, row in self._book.open():
            if row.fragment.end_ns or now_ns - row.since_ns >= self._window_ns:
                yield (key, row.version), partial(self._observation, row)
            else:
                yield None

    def _observation(self, row: FragmentRow) -> Receipt | None:
        """The receipt of the op that *row* is; None if it is none, or nothing new. Raises OverloadedError."""
        op = self._op_of(self._book.whole(row))
        return self._tell(op) if op is not None else None

    def _pulled(self, fragments: Sequence[Fragment], now_ns: int) -> Iterator[tuple[str, _Record] | None]:
        for fragment in fragments:
            if fragment.end_ns or now_ns - fragment.start_ns >= self._window_ns:
                yield fragment.span_id, partial(self._one_pulled, fragment)
            else:
                yield None

    def _one_pulled(self, fragment: Fragment) -> Receipt | None:
        op = self._op_of(fragment)
        if op is None:
            return None
        row = self._judged.find(op.trace_id or "", op.span_id or "")
        call = self._judged.call_of(op) if row is None and self._is_call(op) else None
        if call is not None:  # the gateway's answer was seen here; that the agent made a failure of it was not
            row, own = call, call.own
            self._judged.absorbed(op, own)
            op = _with_failure(own, op) if own.success and not op.success else own
        if row is not None and not _is_news(row.own, op):
            self.repeated += 1
            return None
        return self._amending(row, op) if row is not None else self._tell(op)

    def _op_of(self, fragment: Fragment) -> ObservedOp | None:
        if LANGFUSE_TYPE not in fragment.attributes:
            attributes: dict[str, Scalar] = {**fragment.attributes, LANGFUSE_TYPE: "span"}
            fragment = msgspec.structs.replace(fragment, attributes=attributes)
        if fragment.end_ns:
            return self._reader.op_of(fragment)
        end_ns = max(fragment.told_ns, fragment.start_ns)
        op = self._reader.op_of(msgspec.structs.replace(fragment, end_ns=end_ns))
        if op is None:
            return None
        self.unfinished += 1
        return msgspec.structs.replace(op, extra={**(op.extra or {}), UNFINISHED: True})

    def _tell(self, op: ObservedOp) -> Receipt | None:
        """Record *op*; amending where its span is an op already, and says other things. Raises OverloadedError."""
        row = self._judged.find(op.trace_id or "", op.span_id or "")
        if row is None and self._known.knows(op.event_id or ""):
            self.repeated += 1  # so long ago that what it said is not known
            return None
        if row is None:
            return self._counted(self._witness.witness(op))
        if _said(row.own) == _said(op):
            self.repeated += 1
            return None
        return self._amending(row, op)

    def _amending(self, row: JudgedOp, op: ObservedOp) -> Receipt:
        self.amended += 1
        linked = [(row.trace_id, row.span_id)]
        said = msgspec.structs.replace(self._judged.amended(row, op), op_id=new_id())
        return self._counted(self._recorder.record(said, linked=linked))

    # --- scores --------------------------------------------------------------------------------------------------

    def _ready_scores(self, taken: AbstractSet[str]) -> Iterator[tuple[str, _Record] | None]:
        now_ns = self._clock.time_ns()
        judged: set[str] = set()
        for key, row in self._book.waiting():
            if key in taken:
                yield None
            elif self._known.knows(key):
                self.repeated += 1
                yield key, _nothing
            elif (found := self._ruling(key, row, now_ns)) is None or found.of in judged:
                yield None
            else:
                judged |= {found.of} - {""}
                yield key, partial(self._ruled, found)

    def _ruling(self, key: str, row: ScoreRow, now_ns: int) -> Ruling | None:
        is_last_chance = now_ns - row.since_ns >= self._score_wait_ns
        try:
            return self._verdicts.ruling(key, row.score, is_last_chance=is_last_chance)
        except Exception:  # a poison score costs itself, when its time is over
            log.exception("langfuse.score_not_read", score=key[:200])
            return None

    def _ruled(self, ruling: Ruling) -> Receipt | None:
        return self._counted(self._recorder.record(ruling.op, linked=ruling.linked))

    def _counted(self, receipt: Receipt | None) -> Receipt:
        if receipt is None:
            raise OverloadedError("the journal cannot keep up", "too much waits to be written", "Send it again later")
        self.recorded += 1
        return receipt


def _nothing() -> None:
    """Nothing is left to record."""


def _said(op: ObservedOp) -> tuple[Any, ...]:
    return tuple(getattr(op, name) for name in _SAID)


def _with_failure(own: ObservedOp, told: ObservedOp) -> ObservedOp:
    """*own*, which failed as *told* says."""
    outcome = {name: getattr(told, name) for name in ("success", "error", "error_type", "output_summary")}
    return msgspec.structs.replace(own, **outcome)


def _is_news(known: ObservedOp, pulled: ObservedOp) -> bool:
    """Whether *pulled* says more than times and details, which Langfuse rounds and works out."""
    return known.success != pulled.success or (
        UNFINISHED in (known.extra or {}) and UNFINISHED not in (pulled.extra or {})
    )
