"""Hand-written fakes of the protocols between rooms: they record calls in lists, and fail or answer as configured."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sidecar.model import ObservedOp
from sidecar.protocols import AnswerForm


class ManualClock:
    """A clock that only `advance` moves; `sleep` returns once it has moved far enough."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = start_ns
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def time_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._now_ns / 1e9

    async def sleep(self, seconds: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.monotonic() + seconds, waiter))
        await waiter

    async def advance(self, seconds: float) -> None:
        """Move the time on, wake the sleepers that are due, and let them run."""
        self._now_ns += int(seconds * 1e9)
        due = [waiter for at, waiter in self._sleepers if at <= self.monotonic()]
        self._sleepers = [(at, waiter) for at, waiter in self._sleepers if at > self.monotonic()]
        for waiter in due:
            if not waiter.done():
                waiter.set_result(None)
        for _ in range(20):
            await asyncio.sleep(0)


class KeptOps:
    """An `OpConsumer` that keeps what it is given."""

    def __init__(self) -> None:
        self.ops: list[ObservedOp] = []

    def consume(self, op: ObservedOp) -> None:
        self.ops.append(op)

    def consume_all(self, ops: Sequence[ObservedOp], lines: Sequence[bytes]) -> None:
        assert len(ops) == len(lines)
        self.ops += ops


def an_op(**fields: Any) -> ObservedOp:
    """A successful op; *fields* override its defaults."""
    plain: dict[str, Any] = {
        "timestamp": "2024-05-01T10:00:00.000Z",
        "endpoint": "/fill",
        "input_summary": "fill welder×1 in Reno, NV",
        "success": True,
        "duration_ms": 10,
        "output_summary": "filled",
    }
    return ObservedOp(**{**plain, **fields})


class SettledReceipt:
    """A receipt that is settled from the start."""

    taken = True

    def __init__(self, op: ObservedOp) -> None:
        self.op = op

    async def wait(self) -> None:
        """Settled."""


class KeptDecisions:
    """A `DecisionLog` that keeps (kind, body, follows) and runs the handlers, or raises *failing* while that is set."""

    def __init__(self) -> None:
        self._applied: dict[str, list[Callable[[bytes], object]]] = {}
        self.decided: list[tuple[str, Any, str | None]] = []
        self.failing: Exception | None = None

    async def decide(self, kind: str, body: object, follows: str | None) -> None:
        if self.failing is not None:
            raise self.failing
        written = msgspec.json.encode(body)
        self.decided.append((kind, body, follows))
        self.apply(kind, written)

    def on(self, kind: str, *applied: Callable[[bytes], object]) -> None:
        """Set the handlers of decisions of *kind*, in order."""
        self._applied[kind] = list(applied)

    def apply(self, kind: str, body: bytes) -> None:
        """Run the handlers for a decision that was made elsewhere."""
        for apply in self._applied.get(kind, ()):
            apply(body)


class KeptPosts:
    """A `PostSink` that keeps (kind, entry), or raises *failing* while that is set. `again` has the restored posts."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, Mapping[str, Any]]] = []
        self.again: list[tuple[str, Mapping[str, Any], str]] = []
        self.failing: Exception | None = None

    async def put(self, kind: str, entry: Mapping[str, Any], url: str = "/log") -> None:
        if self.failing is not None:
            raise self.failing
        self.posts.append((kind, entry))

    def put_again(self, kind: str, entry: Mapping[str, Any], decided_at: str, url: str = "/log") -> None:
        if self.failing is not None:
            raise self.failing
        self.again.append((kind, entry, decided_at))


class CannedModel:
    """A `TextModel` that keeps its prompts and always gives the same answer, or raises it if it is an exception."""

    def __init__(self, answer: str | Exception) -> None:
        self.answer = answer
        self.prompts: list[str] = []

    async def generate(self, prompt: str, form: AnswerForm | None = None, *, max_tokens: int = 400) -> str:
        self.prompts.append(prompt)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class KeptSpans:
    """A real tracer whose ended spans are kept."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]
