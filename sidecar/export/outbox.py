"""The outbox: posts that must arrive are stored on disk first, then sent until they are accepted.

They come from analysis, wait in the store (`store.outbox_table`) and go to a sender (`gateway.gateway_log`), one at a
time. Delivery is at-least-once with a fixed `Idempotency-Key`; posts that are given up are kept as dead letters.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import structlog

from sidecar.clock import rfc3339_ms
from sidecar.errors import GatewayLogError, NotOfferedError, ObserverError, RetryableError
from sidecar.export.pacing import Pacing
from sidecar.model import Post, PostOutcome, QueuedPost
from sidecar.protocols import Clock
from sidecar.protocols_posts import GatewayLog, OutboxStore

log = structlog.get_logger(__name__)

MAX_ATTEMPTS: Final = 1000  # about a day of back-off; it bounds posts that fail fast, age bounds the others
MAX_AGE_NS: Final = 24 * 3600 * 10**9
MAX_RESTORED: Final = 10_000
LOOK_S: Final = 2.0  # the command line may have changed a row meanwhile
_MAX_ERROR: Final = 500  # characters
_PATIENCE_S: Final = 1.0  # of a stop with the post in flight


class _CutOffError(Exception):
    """A stop did not wait for the post any longer."""


class Outbox:
    """A stage with one loop and one post in flight, the oldest due first; see `protocols.PostSink`.

    *grace_s* is what all stages have to stop in.

    Counters since start: `delivered`, `failed` attempts, `lost` (no room among waiting posts or dead letters).
    Gauges as of the last look: `waiting`, `dead`.
    """

    def __init__(
        self,
        store: OutboxStore,
        sender: GatewayLog,
        clock: Clock,
        random: Callable[[], float],
        *,
        name: str = "outbox",
        grace_s: float = 8.0,
    ) -> None:
        self.name = name
        self._patience_s = min(_PATIENCE_S, grace_s / 8)
        self._store = store
        self._sender = sender
        self._clock = clock
        self._pacing = Pacing(clock, random)
        self._restored: list[Post] = []
        self._catching_up = asyncio.Lock()
        self._skipped = 0
        self._unsaved: tuple[QueuedPost, PostOutcome] | None = None
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_flight: asyncio.Timeout | None = None
        self._stopping = False
        self._blocked = False  # the disk failed last time; logged once
        self._full = False
        self._not_offered = False  # the last attempt failed so: a gateway may do without these posts, no error
        self._oldest_ns: int | None = None
        self.waiting = 0
        self.dead = 0
        self.delivered = 0
        self.failed = 0
        self.lost = 0

    @property
    def oldest_s(self) -> float:
        """The age of the oldest waiting post in seconds; 0 if none waits."""
        return 0.0 if self._oldest_ns is None else max(0.0, (self._clock.time_ns() - self._oldest_ns) / 1e9)

    async def put(self, kind: str, entry: Mapping[str, Any], url: str = "/log") -> None:
        """Return once *entry* is on disk. A known entry (waiting, sent or dead) is ignored. Raises RetryableError."""
        await self._keep([_post(kind, entry, url)])

    def put_again(self, kind: str, entry: Mapping[str, Any], decided_at: str, url: str = "/log") -> None:
        """Queue *entry* for `catch_up`. Skipped if *decided_at* is over `MAX_AGE_NS` ago, or if the queue is full."""
        if decided_at < rfc3339_ms(self._clock.time_ns() - MAX_AGE_NS) or len(self._restored) >= MAX_RESTORED:
            self._skipped += 1
            return
        self._restored.append(_post(kind, entry, url))

    async def catch_up(self) -> None:
        """Store the entries of `put_again`. Must run before a checkpoint that covers them. Raises RetryableError."""
        async with self._catching_up:
            if self._restored:
                await self._keep(list(self._restored))
                self._restored.clear()

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Start sending. The store must be open and decisions replayed. A failing disk is retried."""
        if self._skipped:
            log.warning("outbox.old_decisions_skipped", decisions=self._skipped)
        self._stopping = False
        self._task = tasks.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Give the post in flight a second, then cut it off: the next start repeats it, by its key. The others wait."""
        self._stopping = True
        self._wake.set()
        task, self._task = self._task, None
        if task is not None:
            patience = asyncio.ensure_future(self._clock.sleep(self._patience_s))
            try:
                await asyncio.wait([task, patience], return_when=asyncio.FIRST_COMPLETED)
                if self._in_flight is not None:
                    self._in_flight.reschedule(0)
                await asyncio.wait([task])
            finally:
                patience.cancel()
                task.cancel()

    async def idle(self) -> None:
        """Return once a look has found no post that may be sent now."""
        await self._idle.wait()

    async def _keep(self, posts: list[Post]) -> None:
        new, refused = await self._store.put(posts, self._clock.time_ns())
        if refused and not self._full:
            log.error("outbox.filled", waiting=self.waiting, lost=self.lost + refused)
        self._full = refused > 0
        self.lost += refused
        if new:
            self.waiting += new
            self._wake.set()
            self._idle.clear()

    async def _run(self) -> None:
        while not self._stopping:
            self._wake.clear()
            self._idle.clear()
            wait_s = await self._guarded_turn()
            if wait_s > 0 and not self._stopping and not self._wake.is_set():
                self._idle.set()
                await self._rest(wait_s)
        await self._last_writes()

    async def _guarded_turn(self) -> float:
        try:
            wait_s = await self._turn()
        except RetryableError as exc:
            if not self._blocked:
                log.error("outbox.blocked", error=str(exc))
            self._blocked = True
            return LOOK_S
        except Exception:  # a fault costs only this turn
            log.exception("outbox.turn_failed")
            return LOOK_S
        if self._blocked:
            log.info("outbox.unblocked")
        self._blocked = False
        return wait_s

    async def _turn(self) -> float:
        """Send at most one post. Returns the seconds until the next look."""
        await self._save_outcome()
        await self.catch_up()
        look = await self._store.look(self._clock.time_ns())
        self.waiting, self.dead, self._oldest_ns = look.waiting, look.dead, look.oldest_ns
        post = look.post
        if post is None:
            due_ns = look.next_due_ns
            return LOOK_S if due_ns is None else min(LOOK_S, max(0.001, (due_ns - self._clock.time_ns()) / 1e9))
        if self._pacing.held_s > 0 and post.due_ns > 0:
            return min(LOOK_S, self._pacing.held_s)
        if not self._stopping:
            outcome = await self._attempt(post)
            self._unsaved = (post, outcome) if outcome is not None else None
            await self._save_outcome()
        return 0.0

    async def _attempt(self, post: QueuedPost) -> PostOutcome | None:
        """The outcome; None if a stop cut the attempt off: the gateway may have taken the post or not."""
        self._not_offered = False
        try:
            await self._send(post)
        except _CutOffError:
            log.info("outbox.post_cut_off", number=post.number)
            return None
        except RetryableError as exc:
            return self._retried(post, str(exc), exc.retry_after_s if isinstance(exc, GatewayLogError) else None)
        except ObserverError as exc:
            self.failed += 1
            self._pacing.refused(post.number)
            self._not_offered = isinstance(exc, NotOfferedError)
            return self._given_up(post, str(exc))
        except Exception as exc:  # a poison post costs only itself
            log.exception("outbox.post_failed", number=post.number)
            return self._retried(post, type(exc).__name__, None)
        self.delivered += 1
        return PostOutcome(state="done", at_ns=self._clock.time_ns(), others_due=self._pacing.taken(post.number))

    async def _send(self, post: QueuedPost) -> None:
        bound = asyncio.timeout(None)
        try:
            async with bound:
                self._in_flight = bound
                await self._sender.post(post.key, post.url, post.body)
        except TimeoutError as exc:
            if bound.expired():
                raise _CutOffError from exc
            raise
        finally:
            self._in_flight = None

    def _retried(self, post: QueuedPost, error: str, retry_after_s: float | None) -> PostOutcome:
        self.failed += 1
        now_ns, attempts = self._clock.time_ns(), post.attempts + 1
        wait_s = self._pacing.failed(post.number, attempts, retry_after_s, error)
        if attempts >= MAX_ATTEMPTS or now_ns - post.since_ns >= MAX_AGE_NS:
            return self._given_up(post, f"given up after {attempts} attempts: {error}")
        due_ns = now_ns + round(wait_s * 1e9)
        return PostOutcome(state="waiting", at_ns=now_ns, due_ns=due_ns, error=error[:_MAX_ERROR])

    def _given_up(self, post: QueuedPost, error: str) -> PostOutcome:
        self._pacing.given_up(post.number)
        if not self._not_offered:
            log.error("outbox.dead_letter", number=post.number, kind=post.kind, url=post.url, error=error)
        return PostOutcome(state="dead", at_ns=self._clock.time_ns(), error=error[:_MAX_ERROR])

    async def _save_outcome(self) -> None:
        """Store the outcome of the last attempt. Nothing else is sent before, or that post might be sent again."""
        if self._unsaved is not None:
            post, outcome = self._unsaved
            evicted = await self._store.settle(post.number, outcome)
            self._unsaved = None
            self.lost += evicted
            if evicted and not self._not_offered:
                log.error("outbox.dead_letter_evicted", evicted=evicted, lost=self.lost)

    async def _last_writes(self) -> None:
        try:
            await self._save_outcome()
            await self.catch_up()
        except RetryableError as exc:
            log.error("outbox.unsaved", error=str(exc))

    async def _rest(self, seconds: float) -> None:
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._wake.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()


def _post(kind: str, entry: Mapping[str, Any], url: str) -> Post:
    body = msgspec.json.encode(entry)
    content = msgspec.json.encode([url, entry], order="sorted")
    return Post(key=hashlib.sha256(content).hexdigest()[:32], kind=kind, url=url, body=body)
