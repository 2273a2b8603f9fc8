"""The reading doors `/stats`, `/ops` and `/ops/stream`; shared: pages of lists, and resources that serve a text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import falcon
import falcon.asgi
import msgspec

from sidecar.model import ObservedOp
from sidecar.receivers.op_filter import OpQuery, op_query

STREAM_IDLE_S = 10.0
_PAGE_BYTES = 2**20  # a page ends early at this size, which bounds what a slow reader holds
_RECENT = 10


class RingView(Protocol):
    """What the reading doors need from the ring."""

    @property
    def successes(self) -> int:
        """Ops that succeeded."""
        ...

    @property
    def failures(self) -> int:
        """Ops that failed."""
        ...

    @property
    def by_source(self) -> Mapping[str, int]:
        """Ops by source."""
        ...

    def __len__(self) -> int: ...
    def newest_first(self) -> Iterator[ObservedOp]:
        """Ops that count, newest first, without replaced ones."""
        ...

    def with_amended(self) -> Iterator[tuple[ObservedOp, str | None]]:
        """All ops, each with the id of the op that replaced it; None if it counts."""
        ...


class Watch(Protocol):
    """One watcher's queue; see `store.feed.Subscription`."""

    missed: int

    def batches(self, idle_s: float) -> AsyncIterator[list[ObservedOp]]:
        """Yield what has arrived; an empty list means that nothing has for *idle_s* seconds."""
        ...


class FeedView(Protocol):
    """What the live door needs from the feed."""

    def watch(self, wanted: Callable[[ObservedOp], bool]) -> AbstractContextManager[Watch]:
        """A subscription for the length of a block. Raises OverloadedError."""
        ...


class StatsResource:
    """`GET /stats`: the fields that existing callers expect, and *more*."""

    scope = "read"

    def __init__(self, ring: RingView, more: Callable[[], dict[str, Any]]) -> None:
        self._ring = ring
        self._more = more

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Counts over the ring; `recent_scenario_ops` are the last ten, oldest first."""
        ring = self._ring
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            {
                "total": len(ring),
                "successes": ring.successes,
                "failures": ring.failures,
                "by_source": dict(ring.by_source),
                "recent_scenario_ops": _recent_scenario_ops(ring.newest_first()),
                **self._more(),
            }
        )


def _recent_scenario_ops(newest_first: Iterator[ObservedOp]) -> list[dict[str, Any]]:
    recent: list[dict[str, Any]] = []
    for op in newest_first:
        if op.source == "scenario":
            said = {"staffer": op.staffer_id, "kind": op.event_kind, "role": op.role}
            known = {name: value for name, value in said.items() if value is not None}
            recent.append({"ts": op.timestamp, "ok": op.success, **known})
            if len(recent) == _RECENT:
                break
    return recent[::-1]


class OpsResource:
    """`GET /ops`: ops in the ring, newest first, in pages.

    Replaced ops are left out; with `amended=true` they are included, and `amended_by` names the replacing op.
    """

    scope = "read"

    def __init__(self, ring: RingView) -> None:
        self._ring = ring

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """`{"ops": […], "next_cursor"}`; the last page has no cursor."""
        page, cursor = _page(self._ring.with_amended(), op_query(req))
        more = {"next_cursor": cursor} if cursor is not None else {}
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode({"ops": page, **more})


def _page(
    newest_first: Iterator[tuple[ObservedOp, str | None]], query: OpQuery
) -> tuple[list[msgspec.Raw], str | None]:
    """Ops as JSON, newest first, after the cursor; and the next page's cursor, if there is one."""
    # any() consumes the iterator up to and including the cursor's op: the rest is the next page.
    if query.cursor is not None and not any(op.op_id == query.cursor for op, _ in newest_first):
        raise falcon.HTTPNotFound(
            description=f"cursor {query.cursor[:80]!r}: its op is no longer in memory; begin without a cursor"
        )
    page: list[msgspec.Raw] = []
    size, last = 0, None
    for op, amended_by in newest_first:
        if (amended_by is None or query.amended) and query.wants(op):
            if len(page) == query.limit or size >= _PAGE_BYTES:
                return page, last
            page.append(msgspec.Raw(_shown(op, amended_by)))
            size += len(memoryview(page[-1]))
            last = op.op_id
    return page, None


def _shown(op: ObservedOp, amended_by: str | None) -> bytes:
    encoded = msgspec.json.encode(op)
    return encoded if amended_by is None else b'%b,"amended_by":%b}' % (encoded[:-1], msgspec.json.encode(amended_by))


class OpsStreamResource:
    """`GET /ops/stream`: each op as it settles, as a server-sent event named `op`."""

    scope = "read"

    def __init__(self, feed: FeedView) -> None:
        self._feed = feed

    async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Events `op` (id = op id), and `missed` with a count if the reader was too slow."""
        query = op_query(req)
        watching = self._feed.watch(query.wants)
        watch = watching.__enter__()  # here, so that OverloadedError becomes a plain 503
        resp.sse = _events(watching, watch)


async def _events(watching: AbstractContextManager[Watch], watch: Watch) -> AsyncIterator[falcon.asgi.SSEvent | None]:
    told = 0
    try:
        yield None  # a comment at once, so that the reader knows that it is connected
        async for batch in watch.batches(STREAM_IDLE_S):
            if (missed := watch.missed) > told:
                yield falcon.asgi.SSEvent(event="missed", json={"missed": missed - told})
                told = missed
            if not batch:
                yield None  # keeps proxies from closing a quiet connection
            for op in batch:
                yield falcon.asgi.SSEvent(data=msgspec.json.encode(op), event="op", event_id=op.op_id)
    finally:
        watching.__exit__(None, None, None)


def page_of(name: str, items: Iterable[Any], key: str, limit: int, cursor: str | None) -> bytes:
    """`{name: […], "next_cursor"}` as JSON, after the cursor's item. Raises HTTPNotFound."""
    items = iter(items)
    if cursor is not None and not any(_id_of(item, key) == cursor for item in items):
        raise falcon.HTTPNotFound(description=f"cursor {cursor[:80]!r} is not known; begin without a cursor")
    page: list[msgspec.Raw] = []
    size, last, more = 0, "", {}
    for item in items:
        if len(page) == limit or size >= _PAGE_BYTES:
            more = {"next_cursor": last}
            break
        page.append(msgspec.Raw(msgspec.json.encode(item)))
        size += len(memoryview(page[-1]))
        last = _id_of(item, key)
    return msgspec.json.encode({name: page, **more})


def _id_of(item: Any, key: str) -> str:
    return str(item[key] if isinstance(item, dict) else getattr(item, key))


class TextResource:
    """`GET` of a text rendered elsewhere: metrics, the API description."""

    def __init__(self, content_type: str, render: Callable[[], bytes], scope: str | None) -> None:
        self.scope = scope
        self._content_type = content_type
        self._render = render

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """The current output of *render*."""
        resp.content_type = self._content_type
        resp.data = self._render()
