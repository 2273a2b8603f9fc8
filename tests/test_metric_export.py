"""Own metrics on their way to a collector that takes them, refuses them, or never answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from opentelemetry.sdk.resources import Resource

from sidecar.export.answers import Answer
from sidecar.export.metric_export import MetricExport
from sidecar.metrics import OwnMetrics
from tests.fakes import ManualClock


class ToldSender:
    """Gives its answers in turn, the last one for ever; waits for `gate`."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.gate = threading.Event()
        self.gate.set()
        self.requests: list[bytes] = []
        self.closed = False

    def send(self, request: bytes, timeout_s: float) -> Answer:
        assert timeout_s > 0
        self.requests.append(request)
        self.gate.wait(60)
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, Exception):
            raise said
        return said

    def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def exporting(sender: ToldSender, drain_s: float = 30.0) -> AsyncIterator[MetricExport]:
    """The stage over *sender*, with one counter; pushed by hand."""
    metrics = OwnMetrics(Resource({}))
    metrics.observe_count("observer.test", "{x}", "A count", lambda: 7)
    export = MetricExport(metrics.read, sender, ManualClock(), interval_s=60, timeout_s=10, drain_s=drain_s)
    async with asyncio.TaskGroup() as tasks:
        await export.start(tasks)
        try:
            yield export
        finally:
            await export.stop()
            metrics.shutdown()


async def test_each_push_is_counted_and_the_stop_pushes_once_more() -> None:
    """What is refused is not repeated; a fault of the sender costs its push."""
    sender = ToldSender(Answer("delivered"), Answer("refused", "HTTP 404"), OSError("gone"), Answer("delivered"))
    async with exporting(sender) as export:
        for _ in range(3):
            await export.push(10)
        assert (export.exported, export.failed) == (1, 2)
    assert (export.exported, len(sender.requests), sender.closed) == (2, 4, True)
    assert b"observer.test" in sender.requests[0]


async def test_the_stop_does_not_wait_for_a_collector_that_hangs() -> None:
    """Nor does it push a second time beside the first."""
    sender = ToldSender(Answer("delivered"))
    sender.gate.clear()
    async with exporting(sender, drain_s=0.05) as export:
        pushing = asyncio.create_task(export.push(10))
        while not sender.requests:
            await asyncio.to_thread(lambda: None)
    assert (len(sender.requests), export.exported, sender.closed) == (1, 0, True)
    sender.gate.set()
    await pushing
