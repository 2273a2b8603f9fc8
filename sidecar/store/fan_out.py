"""Hands each settled op to several consumers; a failing consumer costs the others nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from sidecar.model import ObservedOp
from sidecar.protocols import OpConsumer, OpCounter
from sidecar.store.latest_ops import LatestOps
from sidecar.store.ring import OpRing

log = structlog.get_logger(__name__)

Taken = tuple[ObservedOp, tuple[ObservedOp, ...]]
"""An op, and the ops it replaces."""


def hand_on(consumer: OpConsumer, taken: Taken) -> None:
    """Give *consumer* an op; a counting consumer first retracts the ops it replaces."""
    op, replaced = taken
    if replaced and isinstance(consumer, OpCounter):
        for before in replaced:
            consumer.retract(before)
    consumer.consume(op)


class FanOut:
    """Hands ops to the ring and to every consumer, except ops that *latest* says were seen before.

    `failures` counts exceptions of consumers.
    """

    def __init__(self, ring: OpRing, latest: LatestOps, consumers: Iterable[OpConsumer]) -> None:
        self._ring = ring
        self._latest = latest
        self._consumers = list(consumers)
        self.failures = 0

    def add(self, consumer: OpConsumer) -> None:
        """Hand ops to *consumer* as well: for one that is also upstream, and therefore built later."""
        self._consumers.append(consumer)

    def consume_all(self, ops: Sequence[ObservedOp], lines: Sequence[bytes]) -> None:
        """Hand on *ops*, read from these journal *lines*: all of them to one consumer, then to the next.

        This order keeps each consumer's code in the CPU caches.
        """
        settled: list[Taken] = []
        for op, line in zip(ops, lines, strict=True):
            taken_back = self._latest.take(op, line)
            if taken_back is not None:
                settled.append((op, taken_back))
                self._ring.consume(op, line)
                for before in taken_back:
                    self._ring.amended(before.op_id, op.op_id)
        for consumer in self._consumers:
            consume = consumer.consume
            for op, replaced in settled:
                try:
                    if replaced:
                        hand_on(consumer, (op, replaced))
                    else:  # the usual case
                        consume(op)
                except Exception:  # costs this consumer this op
                    self.failures += 1
                    log.exception("consumer.failed", consumer=type(consumer).__name__, op_id=op.op_id)
