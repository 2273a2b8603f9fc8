"""Exports one log to the collector: a thread takes batches from a source and sends each until it is settled.

Verdicts follow OTLP: delivered, retry, refused for good, too large. Only the batch in flight is in memory; what the
collector does not accept stays in the log.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import structlog

from sidecar.export.answers import Answer
from sidecar.export.batch import Batch, Source
from sidecar.rare_lines import gets_a_line

if TYPE_CHECKING:  # importing gRPC takes 10 MiB
    from sidecar.export.otlp_sender import OtlpSender

log = structlog.get_logger(__name__)

LINGER_S: Final = 0.2  # spans that arrive within it share a request
_BASE_S: Final = 0.5
_CAP_S: Final = 30.0  # longest back-off while the collector responds
_CAP_AWAY_S: Final = 5.0  # while it is unreachable: attempts are cheap, and recovery should be noticed soon
_MOST_ASKED_S: Final = 300.0  # upper bound on Retry-After and RetryInfo
_FAULT_S: Final = 1.0  # pause after a fault of our own
CAUSES: Final = ("rejected", "refused", "too_large")


class ExportLane:
    """A stage. Counters: `exported` spans; `failed` spans, lost for good, by cause; `retries`, attempts to be repeated.

    *drain_s* bounds the last exports at `stop`; what is left stays in the log for the next start. *random* returns a
    number in [0, 1).
    """

    def __init__(
        self,
        name: str,
        source: Source,
        sender: OtlpSender,
        *,
        timeout_s: float,
        drain_s: float,
        random: Callable[[], float],
        linger_s: float = LINGER_S,
        base_s: float = _BASE_S,
    ) -> None:
        self.name = name
        self._source = source
        self._sender = sender
        self._timeout_s = timeout_s
        self._drain_s = drain_s
        self._random = random
        self._linger_s = linger_s
        self._base_s = base_s
        self._stopping = threading.Event()
        self._stop_by = float("inf")
        self._abandoned = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._failures_in_a_row = 0
        self.rest_s = 0.0  # the last back-off
        self._wait_s = 0.0
        self.exported = 0
        self.requests = 0
        self.retries = 0
        self.faults = 0
        self.failed = dict.fromkeys(CAUSES, 0)

    async def start(self, _tasks: asyncio.TaskGroup) -> None:
        """Start exporting. Does not wait for the collector."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Export what waits, for at most *drain_s*; give up after one attempt if the collector does not accept it."""
        if self._thread is None:
            return
        self._thread = None
        self._stop_by = time.monotonic() + self._drain_s
        self._stopping.set()
        try:
            async with asyncio.timeout(self._drain_s):
                await self._ended.wait()
        except TimeoutError:
            self._abandoned = True
            log.warning("export.cut_short", lane=self.name, waited_s=self._drain_s)
        finally:
            self._sender.close()

    def _run(self) -> None:
        while not self._abandoned:
            try:
                busy = self._turn()
            except Exception:  # our own fault costs time, not the lane; its batch stays in the log
                if self._abandoned:  # `stop` closed the sender meanwhile
                    break
                self.faults += 1
                if gets_a_line(self.faults):
                    log.exception("export.faulted", lane=self.name, faults=self.faults)
                busy, self._wait_s = False, _FAULT_S
            if self._stopping.is_set() and not busy:
                break
            rest_s = self._wait_s or (0.0 if busy else self._linger_s)
            if rest_s:
                self._wait_s = 0.0
                self._stopping.wait(rest_s)
        with suppress(RuntimeError):  # the loop is closed: `stop` has given up waiting
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._ended.set)

    def _turn(self) -> bool:
        """Send one batch. Returns whether the next one should follow at once."""
        batch = self._source.take()
        if batch is None:
            return False
        if not batch.items:
            self._source.settle(batch, 0)
            return True
        settled = self._send(batch, 0, len(batch.items))
        return settled and (batch.full or self._stopping.is_set() or self._source.has_backlog())

    def _send(self, batch: Batch, first: int, stop: int) -> bool:
        """Send the items from *first* to *stop*. Returns False if they must be sent again."""
        timeout_s = min(self._timeout_s, max(0.1, self._stop_by - time.monotonic()))
        answer = self._sender.send(batch.request(first, stop), timeout_s)
        self.requests += 1
        if self._abandoned:
            return False
        many = stop - first > 1
        match answer.verdict:
            case "retry":
                self._source.give_back(batch, first)
                self._back_off(answer)
                return False
            case "too_large" if many:
                middle = (first + stop) // 2
                return self._send(batch, first, middle) and self._send(batch, middle, stop)
            case "refused" if many and batch.mixed:  # one bad request must not take the others with it
                return all(self._send(batch, item, item + 1) for item in range(first, stop))
        self._count(answer, batch.count(first, stop))
        self._source.settle(batch, stop)
        self._recovered()
        return True

    def _count(self, answer: Answer, spans: int) -> None:
        if answer.verdict != "delivered":
            self._lose(answer.verdict, spans, answer.why)
            return
        rejected = min(answer.rejected, spans)
        self.exported += spans - rejected
        if rejected:
            self._lose("rejected", rejected, answer.why)
        elif answer.why:
            log.info("export.warned", lane=self.name, said=answer.why)

    def _lose(self, cause: str, spans: int, why: str) -> None:
        before = self.failed[cause]
        self.failed[cause] += spans
        if before.bit_length() < self.failed[cause].bit_length():  # at 1, 2, 4, 8 … spans: not a line for each
            log.error("export.spans_lost", lane=self.name, cause=cause, spans=self.failed[cause], why=why)

    def _back_off(self, answer: Answer) -> None:
        """Set the wait before the next attempt: exponential with jitter, or longer if the collector asked for more.

        Source: "Exponential Backoff And Jitter" (equal jitter); OTLP specification, throttling.
        """
        self.retries += 1
        self._failures_in_a_row += 1
        if self._failures_in_a_row == 1:
            log.warning("export.not_taken", lane=self.name, why=answer.why)
        cap_s = _CAP_S if answer.answered else _CAP_AWAY_S
        doubled = self._base_s * 2.0 ** min(self._failures_in_a_row - 1, 16)
        self._wait_s = max(0.01, (0.5 + self._random() / 2) * min(cap_s, doubled))
        if answer.wait_s is not None:
            self._wait_s = max(self._wait_s, min(answer.wait_s, _MOST_ASKED_S))
        self.rest_s = self._wait_s

    def _recovered(self) -> None:
        if self._failures_in_a_row:
            log.info("export.recovered", lane=self.name, attempts=self._failures_in_a_row)
            self._failures_in_a_row = 0
            self._source.split()
