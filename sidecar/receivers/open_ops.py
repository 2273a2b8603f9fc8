"""Bounds what batches have recorded and not yet seen settled: an operation takes up to a hundred times its text.

The bytes of a batch's text are bounded at the door. `{}` in it becomes an op, its span, its journal line and a receipt,
and a batch that is read faster than the journal settles would hold fifty thousand of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_OP_BYTES: Final = 2048  # an op without its texts, with its receipt and what leads to the journal
_PER_BYTE: Final = 4  # bytes of memory for one of text, as many short values are objects of their own


class OpenOps:
    """Shares *limit* bytes of memory among the batches under way, of all doors."""

    def __init__(self, limit: int = 8 * 2**20) -> None:
        self.limit = limit
        self.batches = 0

    @contextmanager
    def batch(self) -> Iterator[OpenBatch]:
        """A batch's share, while the block lasts."""
        self.batches += 1
        try:
            yield OpenBatch(self)
        finally:
            self.batches -= 1


class OpenBatch:
    """The share of one batch. Once it `is_full`, the batch waits for the older half of its receipts."""

    def __init__(self, open_ops: OpenOps) -> None:
        self._all = open_ops
        self._held = 0

    def add(self, ops: int, size: int) -> None:
        """Count *ops* that were recorded from *size* bytes of text."""
        self._held += ops * _OP_BYTES + size * _PER_BYTE

    @property
    def is_full(self) -> bool:
        """Whether receipts must settle before more is recorded."""
        return self._held > self._all.limit // max(1, self._all.batches)

    def half_settled(self) -> None:
        """The older half of the receipts has settled and is held no more."""
        self._held //= 2
