"""One settled op to several consumers; what one of them does wrong costs the others nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from sidecar.model import ObservedOp
from sidecar.protocols import OpConsumer, OpCounter
from sidecar.store.latest_ops import LatestOps
from sidecar.store.ring import OpRing

log = structlog.get_logger(__name__)

Taken = tuple[ObservedOp, tuple[ObservedOp, ...]]
"""An op, and those whose place it takes."""


def hand_on(consumer: OpConsumer, taken: Taken) -> None:
    """Give *consumer* an op; a book first takes back what the op takes the place of."""
    op, replaced = taken
    if replaced and isinstance(consumer, OpCounter):
        for before in replaced:
            consumer.retract(before)
    consumer.consume(op)


class FanOut:
    """Hands ops to the ring and to every consumer in turn, but for those that *latest* has had before.

    `failures` counts those that raised.
    """

    def __init__(self, ring: OpRing, latest: LatestOps, consumers: Iterable[OpConsumer]) -> None:
        self._ring = ring
        self._latest = latest
        self._consumers = list(consumers)
        self.failures = 0

    def add(self, consumer: OpConsumer) -> None:
        """Hand ops to *consumer* too: for one that is upstream as well, and so built later."""
        self._consumers.append(consumer)

    def consume_all(self, ops: Sequence[ObservedOp], lines: Sequence[bytes]) -> None:
        """Hand *ops*, of these journal *lines*, on: all of them to one consumer before the next one has its turn.

        So its code stays in the processor's caches.
        """
        settled: list[Taken] = []
        for op, line in zip(ops, lines, strict=True):
            replaced = self._latest.take(op, line)
            if replaced is not None:
                settled.append((op, replaced))
                self._ring.consume(op, line)
                for before in replaced:
                    self._ring.amended(before.op_id, op.op_id)
        for consumer in self._consumers:
            consume = consumer.consume
            for taken in settled:
                try:
                    if taken[1]:
                        hand_on(consumer, taken)
                    else:  # nearly all
                        consume(taken[0])
                except Exception:  # costs this op, with this consumer
                    self.failures += 1
                    log.exception("consumer.failed", consumer=type(consumer).__name__, op_id=taken[0].op_id)
