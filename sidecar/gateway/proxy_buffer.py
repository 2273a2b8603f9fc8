"""What each read of the proxy's connections fills: one buffer, whose room is less while many readers are slow.

A piece that was read and that its reader has not taken whole stays in memory, and nothing more is read for that reader.
So the size of a read is what each slow reader makes us hold.
"""

from __future__ import annotations

from typing import Final

WRITE_BUFFER_BYTES: Final = 1  # that wait before the other side is not read any more: the rest of a piece is enough
_READ_BYTES = 16 * 1024
_LESS_BYTES = 4 * 1024  # a stream costs twice as much so: only while it has to be
_MANY_STALLED = 64


class ReadBuffer:
    """For all connections of a proxy: what is read is taken out of it at once."""

    def __init__(self) -> None:
        self.data = bytearray(_READ_BYTES)
        self._less = memoryview(self.data)[:_LESS_BYTES]
        self.stalled = 0  # connections whose other end does not take what is written

    @property
    def room(self) -> bytearray | memoryview:
        """Where the next read goes."""
        return self._less if self.stalled > _MANY_STALLED else self.data
