"""Pulls observations and scores from a Langfuse server each cycle; each becomes an op once, however often it is read.

Each read goes back a little behind the previous one, and from time to time much further: a long observation appears
when it ends, but under its start time, and some reads lag by minutes. Known items are skipped by id. The read position
of each list, even within a window, is kept over restarts.
Source: Langfuse public API, observations v2 (cursor, 1000 a page), scores v3 (cursor, 100 a page).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import httpx
import msgspec
import structlog

from sidecar.clock import rfc3339_ms
from sidecar.errors import InvalidInputError, ObserverError
from sidecar.model import Fragment, Score
from sidecar.protocols import Clock
from sidecar.protocols_langfuse import LangfuseInbox
from sidecar.rare_lines import gets_a_line
from sidecar.receivers.langfuse_events import LangfuseReader, ns_of
from sidecar.receivers.langfuse_pages import PageSize, PageTooLargeError, get_page, page_in
from sidecar.receivers.langfuse_windows import PullState, Window
from sidecar.retry_after import asked_seconds

log = structlog.get_logger(__name__)

_PAGE: Final = 200  # rows; 1000 are allowed, but they contain whole inputs and outputs
_MOST_SCORES: Final = 100
_SLICE: Final = 20  # rows before other tasks get a turn
_REQUEST_S: Final = 10.0
_HOLD_S: Final = 30.0  # after a 429 that does not say how long to wait
_MOST_HOLD_S: Final = 3600.0
_NS: Final = 1_000_000_000
_CORE_FIELDS: Final = "core,basic,time,model,usage,trace_context"


class KeptCursor(Protocol):
    """Keeps a few bytes over restarts. Implementation: `store.cursor_row`."""

    def load(self) -> bytes:
        """The saved bytes, or b""."""
        ...

    async def save(self, body: bytes) -> None:
        """Save *body*. Raises RetryableError."""
        ...


class _List(NamedTuple):
    """One of the two lists."""

    window: Window
    path: str
    size: PageSize
    name: str  # in the names of the window's parameters
    take: Callable[[list[Any]], Awaitable[None]]


class _StopError(Exception):
    """Stop reading in this cycle."""


class LangfusePoller:
    """`pull` is a cycle step that takes at most *timeout_s* seconds. *client* has the server's address and keys.

    Counters since start: rows read; `unreadable` rows; `requests`, `failures`, `limited` (429), `too_large` pages that
    were requested again; `gaps`, windows that will not be read, of `gap_s` seconds in total.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        reader: LangfuseReader,
        inbox: LangfuseInbox,
        cursor: KeptCursor,
        clock: Clock,
        *,
        overlap_s: float,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._reader = reader
        self._inbox = inbox
        self._cursor = cursor
        self._clock = clock
        self._overlap_s = overlap_s
        self._timeout_s = timeout_s
        self._state: PullState | None = None
        self._observation_pages = PageSize(_PAGE, f"{_CORE_FIELDS},io", _CORE_FIELDS)
        self._score_pages = PageSize(_MOST_SCORES, "details,subject", "subject")
        self._held_until = 0.0
        self._stop_at = 0.0
        self.observations = 0
        self.scores = 0
        self.unreadable = 0
        self.requests = 0
        self.failures = 0
        self.limited = 0
        self.too_large = 0
        self.gaps = 0
        self.gap_s = 0.0

    async def pull(self) -> None:
        """Read what is new, within the time limit; the rest is read in the next cycle."""
        self._stop_at = self._clock.monotonic() + self._timeout_s
        if self._clock.monotonic() < self._held_until:
            return
        state = self._state = self._state or self._loaded()
        lists = (
            _List(state.observations, "v2/observations", self._observation_pages, "StartTime", self._observed),
            _List(state.scores, "v3/scores", self._score_pages, "Timestamp", self._scored),
        )
        try:
            for each in lists:
                await self._read(each)
        except _StopError:
            pass
        except (httpx.HTTPError, httpx.InvalidURL, ObserverError, TimeoutError) as exc:
            self._failed(f"{type(exc).__name__} {exc}".strip())

    @property
    def lag_s(self) -> float:
        """Seconds since the time up to which both lists were read completely; 0 before the first read."""
        state = self._state
        upto_ns = min(state.observations.upto_ns, state.scores.upto_ns) if state is not None else 0
        return max(0.0, (self._clock.time_ns() - upto_ns) / _NS) if upto_ns else 0.0

    def stats(self) -> dict[str, float]:
        """Statistics for `/stats`."""
        return {
            "observations": self.observations,
            "scores": self.scores,
            "unreadable": self.unreadable,
            "requests": self.requests,
            "failures": self.failures,
            "limited": self.limited,
            "too_large": self.too_large,
            "gaps": self.gaps,
            "gap_s": round(self.gap_s, 3),
            "lag_s": round(self.lag_s, 3),
        }

    def _loaded(self) -> PullState:
        saved = self._cursor.load()
        try:
            return msgspec.json.decode(saved, type=PullState) if saved else PullState(Window(), Window())
        except msgspec.MsgspecError as exc:
            log.warning("langfuse.cursor_unreadable", error=str(exc))
            return PullState(Window(), Window())

    async def _read(self, each: _List) -> None:
        """Read one list's window to its end, page by page. Raises _StopError when the time is up."""
        window = each.window
        if not window.until_ns:
            missed = window.open(self._clock.time_ns(), round(self._overlap_s * _NS))
            if missed is not None:
                self._gap(*missed)
        while True:
            page = await self._page(each)
            if page is None:
                continue
            await each.take(page["data"])
            meta = page.get("meta")
            cursor = meta.get("cursor") if isinstance(meta, dict) else None
            window.cursor = cursor if isinstance(cursor, str) else ""
            if not window.cursor:
                window.close()
            await self._cursor.save(msgspec.json.encode(self._state))
            if not window.cursor:
                return

    def _gap(self, since_ns: int, until_ns: int) -> None:
        self.gaps += 1
        self.gap_s += (until_ns - since_ns) / _NS
        log.error("langfuse.not_read", since=rfc3339_ms(since_ns), until=rfc3339_ms(until_ns))

    async def _page(self, each: _List) -> Mapping[str, Any] | None:
        """Fetch the next page; None if it must be requested again."""
        window = each.window
        status, retry_after, body = await self._get(each)
        if status == 429 or (status == 503 and retry_after):
            self._hold(retry_after)
            raise _StopError
        if status == 400 and window.cursor:  # the cursor is too old for the server: read the window again
            log.info("langfuse.cursor_refused", list=each.path)
            window.cursor = ""
            return None
        if status != 200:
            self._failed(f"HTTP {status} from {each.path}")
            raise _StopError
        page = page_in(each.path, body)
        each.size.came(len(body))
        return page

    async def _get(self, each: _List) -> tuple[int, str, bytes]:
        """One request: status, `Retry-After`, body. Retries a page that is too large with smaller sizes."""
        window = each.window
        while True:
            left_s = self._stop_at - self._clock.monotonic()
            if left_s <= 0:
                raise _StopError
            params = {
                f"from{each.name}": rfc3339_ms(window.since_ns),
                f"to{each.name}": rfc3339_ms(window.until_ns),
                **each.size.params(),
                **({"cursor": window.cursor} if window.cursor else {}),
            }
            self.requests += 1
            try:
                return await get_page(self._client, f"/api/public/{each.path}", params, min(left_s, _REQUEST_S))
            except (TimeoutError, httpx.TimeoutException):
                each.size.halve()  # if the size is the cause, the next attempt gets further
                raise
            except PageTooLargeError:
                self.too_large += 1
                if not each.size.shrink():
                    await self._give_up(each)
                    raise _StopError from None

    async def _give_up(self, each: _List) -> None:
        """Give up the rest of the window: not even one row without its texts can be read."""
        window = each.window
        self._failed(f"one row of {each.path} is too large")
        self._gap(window.since_ns, window.until_ns)
        window.close()
        await self._cursor.save(msgspec.json.encode(self._state))

    def _hold(self, retry_after: str) -> None:
        self.limited += 1
        asked_s = asked_seconds(retry_after, self._clock.time_ns())
        self._held_until = self._clock.monotonic() + min(_HOLD_S if asked_s is None else asked_s, _MOST_HOLD_S)

    def _failed(self, why: str) -> None:
        self.failures += 1
        if gets_a_line(self.failures):
            log.warning("langfuse.not_pulled", why=why[:300], failures=self.failures)

    async def _observed(self, rows: list[Any]) -> None:
        found: list[Fragment] = []
        for number, row in enumerate(rows, 1):
            if not number % _SLICE:
                await asyncio.sleep(0)
            try:
                said = row.get("updatedAt")
                told_ns = ns_of(said, "updatedAt") if said else self._clock.time_ns()
                found.append(self._reader.fragment("observation", row, told_ns))
            except (InvalidInputError, AttributeError):
                self.unreadable += 1
        await self._inbox.observed(found)
        self.observations += len(found)

    async def _scored(self, rows: list[Any]) -> None:
        found: list[Score] = []
        for row in rows:
            try:
                said = row.get("updatedAt") or row.get("timestamp")
                told_ns = ns_of(said, "timestamp") if said else self._clock.time_ns()
                found.append(self._reader.score(row, told_ns))
            except (InvalidInputError, AttributeError):
                self.unreadable += 1
        await self._inbox.scored(found)
        self.scores += len(found)
