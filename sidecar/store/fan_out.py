"""One settled op to several consumers; what one of them does wrong costs the others nothing."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from sidecar.model import ObservedOp
from sidecar.protocols import OpConsumer

log = structlog.get_logger(__name__)


class FanOut:
    """Hands each op to every consumer in turn. `failures` counts those that raised."""

    def __init__(self, consumers: Sequence[OpConsumer]) -> None:
        self._consumers = list(consumers)
        self.failures = 0

    def add(self, consumer: OpConsumer) -> None:
        """Hand ops to *consumer* too: for one that is upstream as well, and so built later."""
        self._consumers.append(consumer)

    def consume(self, op: ObservedOp) -> None:
        """Hand *op* on."""
        for consumer in self._consumers:
            try:
                consumer.consume(op)
            except Exception:
                self.failures += 1
                log.exception("consumer.failed", consumer=type(consumer).__name__, op_id=op.op_id)
