"""The way into the spool: an encoded request goes in, and comes to a receipt once it is on disk."""

from __future__ import annotations

from typing import Protocol

from sidecar.export.frames import SpoolRecord


class SpoolReceipt(Protocol):
    """The promise that a request is in the spool."""

    async def wait(self) -> None:
        """Return once it is in the file. Raises `JournalError` if it is not and will not be."""
        ...

    @property
    def taken(self) -> bool | None:
        """Whether it is in the file; None while that is not known."""
        ...


class SpoolLog(Protocol):
    """Writes records durably, in groups. Real one: a `store.commit_log` over a `Spool`."""

    def append(self, op: SpoolRecord, *, awaited: bool) -> SpoolReceipt | None:
        """The receipt, or None if there was no room."""
        ...


class SpoolDoor:
    """The way into the spool. `accepted` spans were taken; `refused` ones found no room."""

    def __init__(self, spool_log: SpoolLog) -> None:
        self._log = spool_log
        self.accepted = 0
        self.refused = 0

    def put(self, request: bytes, spans: int, *, awaited: bool = True) -> SpoolReceipt | None:
        """Take an encoded request of *spans* spans: await the receipt before acknowledging it. None: no room."""
        receipt = self._log.append(SpoolRecord(request, spans), awaited=awaited)
        if receipt is None:
            self.refused += spans
        else:
            self.accepted += spans
        return receipt
