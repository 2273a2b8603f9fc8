"""The interfaces on the way of a post: who wants it sent, the outbox on disk, and who sends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sidecar.model import OutboxLook, Post, PostOutcome


class GatewayLog(Protocol):
    """Sends what the observer learnt to the gateway: `POST {GATEWAY_URL}/log`."""

    async def post(self, key: str, path: str, body: bytes) -> None:
        """Make one bounded attempt to send *body* (JSON) to *path*; equal content has an equal *key*.

        Raises `RetryableError` (`GatewayLogError` may say when to retry), or another `ObserverError` if the same post
        would be refused again.
        """
        ...


class PostSink(Protocol):
    """Takes posts that must arrive. Implementation: `export.outbox`."""

    async def put(self, kind: str, entry: Mapping[str, Any], url: str = "/log") -> None:
        """Return once *entry* is on disk, to be sent until accepted; repetitions are ignored. Raises RetryableError."""
        ...

    def put_again(self, kind: str, entry: Mapping[str, Any], decided_at: str, url: str = "/log") -> None:
        """Queue an entry of a replayed decision, *decided_at* (RFC 3339), in case it is not in the outbox yet.

        It is put before the next checkpoint is saved.
        """
        ...


class OutboxStore(Protocol):
    """The outbox on disk. All methods raise `RetryableError` if the disk fails."""

    async def put(self, posts: Sequence[Post], now_ns: int) -> tuple[int, int]:
        """Store *posts*, each key once. Returns (number of new posts, number without room)."""
        ...

    async def look(self, now_ns: int) -> OutboxLook:
        """Return the oldest due post and the counts."""
        ...

    async def settle(self, number: int, outcome: PostOutcome) -> int:
        """Store the outcome of a post. Returns the number of dead letters evicted for room."""
        ...
