"""One settled op to several consumers; what one of them does wrong costs the others nothing."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from sidecar.model import ObservedOp
from sidecar.protocols import OpConsumer
from sidecar.store.ring import OpRing

log = structlog.get_logger(__name__)


class FanOut:
    """Hands ops to the ring and to every consumer in turn. `failures` counts those that raised."""

    def __init__(self, ring: OpRing, consumers: Sequence[OpConsumer]) -> None:
        self._ring = ring
        self._consumers = list(consumers)
        self.failures = 0

    def add(self, consumer: OpConsumer) -> None:
        """Hand ops to *consumer* too: for one that is upstream as well, and so built later."""
        self._consumers.append(consumer)

    def consume_all(self, ops: Sequence[ObservedOp], lines: Sequence[bytes]) -> None:
        """Hand *ops*, of these journal *lines*, on: all of them to one consumer before the next one has its turn.

        So its code stays in the processor's caches.
        """
        for op, line in zip(ops, lines, strict=True):
            self._ring.consume(op, line)
        for consumer in self._consumers:
            for op in ops:
                try:
                    consumer.consume(op)
                except Exception:  # costs this op, with this consumer
                    self.failures += 1
                    log.exception("consumer.failed", consumer=type(consumer).__name__, op_id=op.op_id)
