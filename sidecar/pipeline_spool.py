"""Joins a spool to the commit log that writes it. Part of the pipeline, apart as two exports have one each."""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.export.frames import SpoolRecord, framed
from sidecar.export.spool import Spool
from sidecar.protocols import Clock
from sidecar.settings import Settings
from sidecar.store.commit_log import CommitLog

_PENDING_BYTES = 16 * 2**20  # what a spool holds in memory while the disk is slow


def spool_log(name: str, spool: Spool, settings: Settings, clock: Clock) -> CommitLog[SpoolRecord]:
    """The log that writes *spool* in groups, with receipts."""
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
    """The downstream of a spool's log: the lane reads the spool itself."""

    def consume_all(self, ops: Sequence[SpoolRecord], lines: Sequence[bytes]) -> None:
        """Nothing."""
