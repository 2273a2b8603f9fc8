"""Reads a Langfuse server each cycle: observations and scores become ops here, each once, however often they are read.

Each reading goes back a little behind the one before, and every so often much further: a long observation is shown
when it ends, under the time at which it began, and some reads lag by minutes. What is known is passed over by its id.
How far each list was read, in the middle of a window too, is kept over restarts.
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
from sidecar.protocols import Clock, LangfuseInbox
from sidecar.receivers.langfuse_events import LangfuseReader, ns_of

log = structlog.get_logger(__name__)

CATCH_UP_S: Final = 86_400.0
"""After a longer outage what is older is not read any more, and counted as a gap."""

_SHORT_S: Final = 120.0  # how far most readings go back
_PAGE: Final = 200  # of the 1000 that are allowed: they hold whole inputs and outputs
_MOST_SCORES: Final = 100
_SLICE: Final = 20  # rows before other tasks get a turn
_REQUEST_S: Final = 10.0
_HOLD_S: Final = 30.0  # after a 429 that does not say for how long
_MOST_HOLD_S: Final = 3600.0
_MOST_PAGE: Final = 64 * 2**20  # bytes
_NS: Final = 1_000_000_000
_FIELDS: Final = "core,basic,time,io,model,usage,trace_context"


class Window(msgspec.Struct, omit_defaults=True):
    """How far one list was read: all that began before *upto_ns*; from *since_ns* to *until_ns* is under way.

    *cursor* is the page of it that comes next, *deep_ns* the end of the last reading that went far back.
    """

    upto_ns: int = 0
    deep_ns: int = 0
    since_ns: int = 0
    until_ns: int = 0
    cursor: str = ""


class PullState(msgspec.Struct):
    """What is kept over restarts."""

    observations: Window
    scores: Window


class KeptCursor(Protocol):
    """Keeps a few bytes over restarts. Real one: `store.cursor_row`."""

    def load(self) -> bytes:
        """What was kept, or b""."""
        ...

    async def save(self, body: bytes) -> None:
        """Keep *body*. Raises RetryableError."""
        ...


class _List(NamedTuple):
    """One of the two lists."""

    window: Window
    path: str
    limit: int
    name: str  # of the parameters for the window
    more: dict[str, str]
    take: Callable[[list[Any]], Awaitable[None]]


class _StopError(Exception):
    """Nothing more is read in this cycle."""


class LangfusePoller:
    """`pull` is a step of the cycle, of at most *timeout_s* seconds. *client* has the server's address and keys.

    Counters since the start: rows read; `unreadable` ones; `requests`, `failures`, `limited` (429) ones; `gaps`,
    windows that will not be read, of `gap_s` seconds in all.
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
        self._held_until = 0.0
        self._stop_at = 0.0
        self.observations = 0
        self.scores = 0
        self.unreadable = 0
        self.requests = 0
        self.failures = 0
        self.limited = 0
        self.gaps = 0
        self.gap_s = 0.0

    async def pull(self) -> None:
        """Read what is new, as far as the time goes; what is left comes in the next cycle."""
        self._stop_at = self._clock.monotonic() + self._timeout_s
        if self._clock.monotonic() < self._held_until:
            return
        state = self._state = self._state or self._loaded()
        lists = (
            _List(state.observations, "v2/observations", _PAGE, "StartTime", {"fields": _FIELDS}, self._observed),
            _List(state.scores, "v3/scores", _MOST_SCORES, "Timestamp", {"fields": "details,subject"}, self._scored),
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
        """Up to how long ago both lists were read whole; 0 before the first reading."""
        state = self._state
        upto_ns = min(state.observations.upto_ns, state.scores.upto_ns) if state is not None else 0
        return max(0.0, (self._clock.time_ns() - upto_ns) / _NS) if upto_ns else 0.0

    def stats(self) -> dict[str, float]:
        """For `/stats`."""
        return {
            "observations": self.observations,
            "scores": self.scores,
            "unreadable": self.unreadable,
            "requests": self.requests,
            "failures": self.failures,
            "limited": self.limited,
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
        """Read one list's window to its end, page by page. Raises _StopError when the time is over."""
        window = each.window
        if not window.until_ns:
            self._open(window)
        while True:
            page = await self._page(each)
            await each.take(page["data"])
            meta = page.get("meta")
            cursor = meta.get("cursor") if isinstance(meta, dict) else None
            window.cursor = cursor if isinstance(cursor, str) else ""
            if not window.cursor:
                self._close(window)
            await self._cursor.save(msgspec.json.encode(self._state))
            if not window.cursor:
                return

    def _open(self, window: Window) -> None:
        """Say what is to be read next."""
        now_ns, overlap_ns = self._clock.time_ns(), round(self._overlap_s * _NS)
        oldest_ns = now_ns - round(CATCH_UP_S * _NS)
        if 0 < window.upto_ns < oldest_ns:
            self.gaps += 1
            self.gap_s += (oldest_ns - window.upto_ns) / _NS
            log.error("langfuse.not_read", since=rfc3339_ms(window.upto_ns), until=rfc3339_ms(oldest_ns))
        begin_ns = max(window.upto_ns, oldest_ns) if window.upto_ns else now_ns
        is_deep = now_ns - window.deep_ns >= overlap_ns // 2
        back_ns = overlap_ns if is_deep else min(overlap_ns, round(_SHORT_S * _NS))
        window.since_ns, window.until_ns = begin_ns - back_ns, now_ns
        if is_deep:
            window.deep_ns = now_ns

    def _close(self, window: Window) -> None:
        window.upto_ns = window.until_ns
        window.since_ns = window.until_ns = 0

    async def _page(self, each: _List) -> Mapping[str, Any]:
        window = each.window
        params = {
            "limit": str(each.limit),
            f"from{each.name}": rfc3339_ms(window.since_ns),
            f"to{each.name}": rfc3339_ms(window.until_ns),
            **each.more,
            **({"cursor": window.cursor} if window.cursor else {}),
        }
        left_s = self._stop_at - self._clock.monotonic()
        if left_s <= 0:
            raise _StopError
        self.requests += 1
        status, retry_after, body = await self._get(f"/api/public/{each.path}", params, min(left_s, _REQUEST_S))
        if status == 429 or (status == 503 and retry_after):
            self._hold(retry_after)
            raise _StopError
        if status == 400 and window.cursor:  # it is too old for the server: the window is read anew
            log.info("langfuse.cursor_refused", list=each.path)
            window.cursor = ""
            return await self._page(each)
        if status != 200:
            self._failed(f"HTTP {status} from {each.path}")
            raise _StopError
        try:
            said = msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            self._failed(f"{each.path} is no JSON: {exc}")
            raise _StopError from exc
        if not isinstance(said, dict) or not isinstance(said.get("data"), list):
            self._failed(f"{each.path} has no data")
            raise _StopError
        return said

    async def _get(self, path: str, params: dict[str, str], timeout_s: float) -> tuple[int, str, bytes]:
        """Status, `Retry-After` and body, within *timeout_s* in all."""
        body = b""
        async with asyncio.timeout(timeout_s):
            async with self._client.stream("GET", path, params=params, timeout=timeout_s) as response:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_PAGE:
                        raise httpx.ReadError("a page is too large")
                return response.status_code, response.headers.get("retry-after", ""), body

    def _hold(self, retry_after: str) -> None:
        self.limited += 1
        asked_s = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else _HOLD_S
        self._held_until = self._clock.monotonic() + min(asked_s, _MOST_HOLD_S)

    def _failed(self, why: str) -> None:
        self.failures += 1
        if self.failures & (self.failures - 1) == 0:  # the 1st, 2nd, 4th, 8th …: not one line each
            log.warning("langfuse.not_pulled", why=why[:300], failures=self.failures)

    async def _observed(self, rows: list[Any]) -> None:
        found: list[Fragment] = []
        for number, row in enumerate(rows, 1):
            if not number % _SLICE:
                await asyncio.sleep(0)
            try:
                told_ns = ns_of(row.get("updatedAt") or row.get("startTime"), "startTime")
                found.append(self._reader.fragment("observation", row, told_ns))
            except (InvalidInputError, AttributeError):
                self.unreadable += 1
        await self._inbox.observed(found)
        self.observations += len(found)

    async def _scored(self, rows: list[Any]) -> None:
        found: list[Score] = []
        for row in rows:
            try:
                found.append(self._reader.score(row, self._clock.time_ns()))
            except (InvalidInputError, AttributeError):
                self.unreadable += 1
        await self._inbox.scored(found)
        self.scores += len(found)
