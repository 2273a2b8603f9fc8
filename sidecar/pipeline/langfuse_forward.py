"""Builds the forwarding of Langfuse clients' requests to a Langfuse server.

door ──► spool ──► lane ──► Langfuse
"""

from __future__ import annotations

import random
from pathlib import Path

from sidecar.export.lane import ExportLane
from sidecar.export.langfuse_forward import ForwardDoor, LangfuseSender
from sidecar.export.spool import Spool
from sidecar.export.spool_door import SpoolDoor
from sidecar.pipeline.spool_log import spool_log
from sidecar.protocols import Clock
from sidecar.settings import Settings

_TIMEOUT_S = 10.0  # of one attempt to send
_DRAIN_SHARE = 4  # 1/4 of the grace period; the rest is for the journals


class Forward:
    """Forwards requests of Langfuse clients to the server: `door` takes them, `log` and `lane` are stages."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.spool = Spool(
            Path(settings.data_dir) / "langfuse-spool",
            clock,
            max_bytes=settings.spool_bytes,
            max_age_s=settings.spool_max_age,
            most_records=1,  # each record is a request of its own
        )
        self.log = spool_log("langfuse-spool", self.spool, settings, clock)
        self.way_in = SpoolDoor(self.log)
        self.door = ForwardDoor(self.way_in)
        sender = LangfuseSender(
            settings.langfuse_forward_url, settings.langfuse_forward_public_key, settings.langfuse_forward_secret_key
        )
        self.lane = ExportLane(
            "langfuse-forward",
            self.spool,
            sender,
            timeout_s=_TIMEOUT_S,
            drain_s=settings.grace / _DRAIN_SHARE,
            random=random.random,
        )

    @property
    def lost(self) -> int:
        """Items lost before Langfuse accepted them: refused for good, evicted by a bound, or without room."""
        return sum(self.lane.failed.values()) + self.spool.evicted + self.way_in.refused

    def stats(self) -> dict[str, int]:
        """For `/stats`: items (spans, events, scores), and bytes waiting on disk."""
        return {
            "accepted": self.way_in.accepted,
            "delivered": self.lane.exported,
            "failed": sum(self.lane.failed.values()),
            "evicted": self.spool.evicted,
            "retries": self.lane.retries,
            "waiting_bytes": self.spool.waiting_bytes,
        }
