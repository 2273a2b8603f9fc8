"""Stands in for an outbox where nothing is to be posted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NoPosts:
    """A `PostSink` that keeps nothing, so that nothing is sent later either."""

    async def put(self, kind: str, entry: Mapping[str, Any], url: str = "/log") -> None:
        """Ignore *entry*."""

    def put_again(self, kind: str, entry: Mapping[str, Any], decided_at: str, url: str = "/log") -> None:
        """Ignore *entry*."""
