"""The read buffer that all connections of the proxy share; reads become smaller while many receivers are slow.

The part of a read that its receiver does not take waits in a write buffer, and meanwhile nothing more is read for it.
The size of one read therefore bounds the memory that each slow receiver costs.
"""

from __future__ import annotations

from typing import Final

WRITE_BUFFER_BYTES: Final = 1  # high-water mark: the unsent rest of one read already pauses reading from the other side
_READ_BYTES = 16 * 1024
_SMALL_READ_BYTES = 4 * 1024  # streams then cost twice as much, so only while needed
_MANY_STALLED = 64


class ReadBuffer:
    """One buffer for all connections of a proxy: the contents of a read are consumed before the next."""

    def __init__(self) -> None:
        self.data = bytearray(_READ_BYTES)
        self._small = memoryview(self.data)[:_SMALL_READ_BYTES]
        self.stalled = 0  # connections whose writing is paused: the other end reads slowly

    @property
    def room(self) -> bytearray | memoryview:
        """The memory for the next read."""
        return self._small if self.stalled > _MANY_STALLED else self.data
