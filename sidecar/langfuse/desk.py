"""Turns Langfuse observations and scores into ops, once they are complete.

They come from the doors and the poller, are written down first (`book`), then recorded like all ops. An observation
becomes an op when it ends, or when its window closes; later updates become ops that amend the first. A score waits a
while for the op it judges, whose span may still be in transit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final, TypeVar

import msgspec
import structlog

from sidecar.errors import ObserverError, RetryableError
from sidecar.langfuse.book import DONE, TOLD, FragmentRow, LangfuseBook, LangfuseDone, ScoreRow, score_key
from sidecar.langfuse.last_shown import LastShown
from sidecar.langfuse.merging import merged, says_the_same, told_by
from sidecar.langfuse.observations import Observations, with_room
from sidecar.langfuse.verdicts import Ruling, Verdicts
from sidecar.model import Fragment, LangfuseTold, Score
from sidecar.protocols import Clock, DecisionLog, KnownEvents, Receipt, Recorder
from sidecar.rare_lines import gets_a_line

log = structlog.get_logger(__name__)

SCORE_WAIT_S: Final = 60.0
_LOOK_EVERY_S: Final = 1.0
_PART: Final = 64  # items per decision: two milliseconds to apply
_AT_ONCE: Final = 1024  # items for which room is reserved at once
_SLICE: Final = 16  # items before other tasks get a turn: a millisecond or two

K = TypeVar("K")
_Record = Callable[[], Receipt | None]
_Observed = Iterable[tuple[str, FragmentRow]]
_Scored = Sequence[tuple[str, ScoreRow]]


class LangfuseDesk:
    """A stage, and the `LangfuseInbox`. *window_s*: how long an observation may stay open without an end.

    Counters since start: `judged` scores that became ops, `repeated` ones (or told before the last word, but late) and
    unreadable (`unjudged`) ones; `unrecorded` items lost to a fault of ours; `failed` rounds, which are retried.
    """

    name = "langfuse"

    def __init__(
        self,
        book: LangfuseBook,
        observations: Observations,
        verdicts: Verdicts,
        *,
        recorder: Recorder,
        decisions: DecisionLog,
        known: KnownEvents,
        clock: Clock,
        window_s: float,
    ) -> None:
        self._book = book
        self._observations = observations
        self._verdicts = verdicts
        self._recorder = recorder
        self._decisions = decisions
        self._known = known
        self._clock = clock
        self._window_ns = round(window_s * 1e9)
        self._score_wait_ns = round(SCORE_WAIT_S * 1e9)
        self._shown = LastShown()
        self._working = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.judged = 0
        self.repeated = 0
        self.unjudged = 0
        self.unrecorded = 0
        self.failed = 0

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start processing what waits, including what the previous run left."""
        self._task = tasks.create_task(self._loop(), name="langfuse-desk")

    async def stop(self) -> None:
        """Stop processing; what waits stays in the book."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def take(self, told: LangfuseTold) -> None:
        """See `LangfuseInbox`. What cannot be recorded now is on disk and is recorded later."""
        taken_ns = told.taken_ns or self._clock.time_ns()
        for some in _parts(told, taken_ns, _AT_ONCE):  # recorded observations make room for the next part
            with self._book.room(some):
                for part in _parts(some, taken_ns, _PART):
                    news = msgspec.structs.replace(part, scores=self._later(part))
                    if news.fragments or news.scores:
                        await self._decisions.decide(TOLD, news, None)
            await self._round(some)

    async def observed(self, fragments: Sequence[Fragment]) -> None:
        """See `LangfuseInbox`. An observation without an end is skipped until its window closes: it is pulled again."""
        news: list[Fragment] = []
        async with self._working:
            await self._settle(self._pulled(fragments, self._clock.time_ns(), news), [])
        await self.take(LangfuseTold(fragments=news))

    async def scored(self, scores: Sequence[Score]) -> None:
        """See `LangfuseInbox`."""
        await self.take(LangfuseTold(scores=list(scores)))

    def _later(self, told: LangfuseTold) -> list[Score]:
        """The scores *told* that are a last word: a change, or a later time of what is known, which is no op."""
        later = self._book.later((score for score in told.scores if not self._is_known(score)), told.taken_ns)
        self.repeated += len(told.scores) - sum(each.is_change for each in later)
        return [each.score for each in later]

    def _is_known(self, score: Score) -> bool:
        """Whether this telling of *score* is an op already, or was taken by a version whose keys have no time."""
        older = self._book.older_key(score)
        if older and (self._known.knows(older) or self._book.is_waiting(older)):
            return True
        return self._known.knows(score_key(score))

    async def _loop(self) -> None:
        while True:
            await self._round()
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _round(self, told: LangfuseTold | None = None) -> None:
        """Record what is ready, of what was *told*, or of everything that waits."""
        async with self._working:
            observed = self._book.open(told.fragments if told is not None else None)
            scored = self._book.waiting(told.scores if told is not None else None)
            try:
                await self._work(observed, scored)
            except ObserverError as exc:
                self._failed(exc)
            except Exception:  # a fault of ours costs this round, not the loop
                self.failed += 1
                log.exception("langfuse.round_failed", failures=self.failed)

    def _failed(self, exc: ObserverError) -> None:
        self.failed += 1
        if gets_a_line(self.failed):
            log.warning("langfuse.not_recorded_yet", error=str(exc), failures=self.failed)

    async def _work(self, observed: _Observed, scored: _Scored) -> None:
        """Record what of these is ready, then mark it done by decisions. What finds no room waits for the next."""
        observations: list[tuple[str, int]] = []
        scores: list[str] = []
        try:
            await self._settle(self._ready_observations(observed), observations)
            before = -1
            while before < len(scores) < len(scored):  # scores of one op: each amends the result of the one before
                before = len(scores)
                await self._settle(self._ready_scores(scored, frozenset(scores)), scores)
        finally:
            for start in range(0, max(len(observations), len(scores)), _PART):
                done = LangfuseDone(observations[start : start + _PART], scores[start : start + _PART])
                await self._decisions.decide(DONE, done, None)

    async def _settle(self, ready: Iterator[tuple[K, _Record] | None], done: list[K]) -> None:
        """Record each of *ready* and add to *done* those that reached the journal. Raises RetryableError."""
        receipts: list[tuple[K, Receipt | None]] = []
        error: RetryableError | None = None
        try:
            await self._record(ready, receipts)
        except RetryableError as exc:
            error = exc
        for key, receipt in receipts:
            try:
                if receipt is not None:
                    await receipt.wait()
                done.append(key)
            except RetryableError as exc:
                error = exc
        if error is not None:
            raise error

    async def _record(
        self, ready: Iterator[tuple[K, _Record] | None], receipts: list[tuple[K, Receipt | None]]
    ) -> None:
        """Record each of *ready*; *receipts* gets theirs, None where no op is needed. Raises RetryableError."""
        for number, item in enumerate(ready, 1):
            if not number % _SLICE:
                await asyncio.sleep(0)
            if item is None:
                continue
            key, record = item
            try:
                receipts.append((key, record()))
            except RetryableError:
                raise
            except Exception:  # a poison item costs only itself
                self.unrecorded += 1
                log.exception("langfuse.item_not_recorded", item=str(key)[:200])
                receipts.append((key, None))

    def _ready_observations(self, observed: _Observed) -> Iterator[tuple[tuple[str, int], _Record] | None]:
        now_ns = self._clock.time_ns()
        for key, row in observed:
            if row.fragment.end_ns or now_ns - row.since_ns >= self._window_ns:
                yield (key, row.version), partial(self._told, row)
            else:
                yield None

    def _told(self, row: FragmentRow) -> Receipt | None:
        return self._observations.told(self._book.whole(row))

    def _pulled(
        self, fragments: Sequence[Fragment], now_ns: int, news: list[Fragment]
    ) -> Iterator[tuple[str, _Record] | None]:
        """Records for those of *fragments* that are first reports; *news* gets those that change what is known."""
        for fragment in fragments:
            row = told_by(fragment, now_ns)
            known = self._book.known(row)
            whole = merged(known, row)
            if says_the_same(whole, known) if known is not None else self._shown.is_older(fragment):
                self.repeated += 1
                yield None
            elif whole.end_ns or now_ns - whole.start_ns >= self._window_ns:
                tell = partial(news.append, row)
                yield row.span_id, partial(self._observations.pulled, whole, tell, is_told=known is not None)
            else:
                yield None

    def _ready_scores(self, scored: _Scored, taken: AbstractSet[str]) -> Iterator[tuple[str, _Record] | None]:
        now_ns = self._clock.time_ns()
        judged: set[str] = set()
        for key, row in scored:
            if key in taken:
                yield None
                continue
            if self._known.knows(key):
                self.repeated += 1
                yield key, _nothing
                continue
            try:
                is_last_chance = now_ns - row.since_ns >= self._score_wait_ns
                ruling = self._verdicts.ruling(key, row.score, row.since_ns, is_last_chance=is_last_chance)
            except Exception:  # a poison score costs only itself
                self.unjudged += 1
                log.exception("langfuse.score_not_read", score=key[:200])
                yield key, _nothing
                continue
            if ruling is None or ruling.of in judged:
                yield None
            else:
                judged |= {ruling.of} - {""}
                yield key, partial(self._ruled, ruling)

    def _ruled(self, ruling: Ruling) -> Receipt | None:
        if ruling.op is None:
            self.repeated += 1
            return None
        receipt = with_room(self._recorder.record(ruling.op, linked=ruling.linked))
        self.judged += 1
        return receipt


def _parts(told: LangfuseTold, taken_ns: int, most: int) -> Iterator[LangfuseTold]:
    """Split *told* into parts of at most *most* items; none if it is empty."""
    for start in range(0, max(len(told.fragments), len(told.scores)), most):
        upto = start + most
        fragments, scores = told.fragments[start:upto], told.scores[start:upto]
        yield LangfuseTold(taken_ns=taken_ns, by_field=True, fragments=fragments, scores=scores)


def _nothing() -> None:
    """Does nothing: the item needs no op, it is only marked done."""
