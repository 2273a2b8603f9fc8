"""One settled op to several consumers."""

from __future__ import annotations

from sidecar.model import ObservedOp
from sidecar.store.fan_out import FanOut
from sidecar.store.latest_ops import LatestOps
from sidecar.store.ring import OpRing
from tests.fakes import KeptOps, an_op


class Picky:
    """A consumer that fails on one endpoint."""

    def __init__(self) -> None:
        self.endpoints: list[str] = []

    def consume(self, op: ObservedOp) -> None:
        if op.endpoint == "constructor":
            raise ValueError(op.endpoint)
        self.endpoints.append(op.endpoint)


def test_an_op_that_a_consumer_fails_on_costs_that_consumer_that_op() -> None:
    """The others have it, and it has the others."""
    ring, picky, kept = OpRing(10, 10**6), Picky(), KeptOps()
    ops = [an_op(endpoint=name) for name in ("/a", "constructor", "/b")]
    fan_out = FanOut(ring, LatestOps(), [picky])
    fan_out.add(kept)
    fan_out.consume_all(ops, [b""] * 3)
    assert picky.endpoints == ["/a", "/b"]
    assert kept.ops == ring.ops() == ops
    assert fan_out.failures == 1
