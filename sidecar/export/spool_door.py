"""The entrance of the spool: takes encoded requests and returns receipts that settle once they are on disk."""

from __future__ import annotations

from typing import Protocol

from sidecar.export.frames import SpoolRecord


class SpoolReceipt(Protocol):
    """The promise that a request is in the spool."""

    async def wait(self) -> None:
        """Return once the request is in the file. Raises `JournalError` if it never will be."""
        ...

    @property
    def taken(self) -> bool | None:
        """Whether it is in the file; None while that is undecided."""
        ...


class SpoolLog(Protocol):
    """Writes records durably, in groups. Implementation: a `store.commit_log` over a `Spool`."""

    def append(self, op: SpoolRecord, *, awaited: bool) -> SpoolReceipt | None:
        """Append *op*. Returns its receipt, or None if there is no room."""
        ...


class SpoolDoor:
    """The entrance of the spool. `accepted` counts spans taken, `refused` spans without room."""

    def __init__(self, spool_log: SpoolLog) -> None:
        self._log = spool_log
        self.accepted = 0
        self.refused = 0

    def put(self, request: bytes, spans: int, *, awaited: bool = True) -> SpoolReceipt | None:
        """Take an encoded request of *spans* spans. Await the receipt before acknowledging. None: no room."""
        receipt = self._log.append(SpoolRecord(request, spans), awaited=awaited)
        if receipt is None:
            self.refused += spans
        else:
            self.accepted += spans
        return receipt
