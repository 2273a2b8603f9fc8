"""Connects a spool to the commit log that writes it. Two exports share it."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.export.frames import SpoolRecord, framed
from sidecar.export.spool import Spool
from sidecar.protocols import Clock
from sidecar.settings import Settings
from sidecar.store.commit_log import CommitLog

_PENDING_BYTES = 16 * 2**20  # bound of a spool's memory while the disk is slow


def spool_log(name: str, spool: Spool, settings: Settings, clock: Clock) -> CommitLog[SpoolRecord]:
    """The commit log that writes *spool* in groups and gives receipts."""
    return CommitLog(
        name,
        spool.open,
        framed,
        _Nobody(),
        clock,
        max_bytes=min(_PENDING_BYTES, settings.spool_bytes // 2),
        sync_every_s=settings.fsync_every_s,
        commit_timeout_s=settings.commit_timeout,
        seal=bytes,
    )


class _Nobody:
    """An empty downstream for a spool's log: the lane reads the spool itself."""

    def consume_all(self, ops: Sequence[SpoolRecord], lines: Sequence[bytes]) -> None:
        """Does nothing."""
