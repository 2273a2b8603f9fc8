"""The interfaces between rooms: one to three methods each, only where two implementations exist.

Those of a larger concern are in `protocols_langfuse` and `protocols_posts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from sidecar.model import ObservedOp, SpanRef
from sidecar.model_learning import Advice, AdviceQuery, EntryAction, PlaybookEntry, PlaybookHistory, PlaybookView

if TYPE_CHECKING:  # commands that talk to a running observer need no OpenTelemetry
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
    from opentelemetry.trace import SpanContext


class Clock(Protocol):
    """The observer's source of time. Implementation: `clock.SystemClock`."""

    def time_ns(self) -> int:
        """Wall clock in ns since the Unix epoch; for timestamps only."""
        ...

    def monotonic(self) -> float:
        """Monotonic clock in seconds; for intervals and deadlines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Sleep for *seconds*; other tasks run meanwhile."""
        ...


class OpConsumer(Protocol):
    """A consumer of ops: ring, live feed, analysis. This one method is the whole contract."""

    def consume(self, op: ObservedOp) -> None:
        """Take one settled op. Must not block."""
        ...


@runtime_checkable
class OpCounter(OpConsumer, Protocol):
    """A consumer that counts ops and can retract one: ended ops never change, but later ops may amend them."""

    def retract(self, op: ObservedOp) -> None:
        """Stop counting *op*, consumed before; the op that replaces it is consumed next. Must not block."""
        ...


class Receipt(Protocol):
    """The promise that one op will be in the journal."""

    op: ObservedOp

    async def wait(self) -> None:
        """Return once the op is in the file. Raises `JournalError` if it never will be."""
        ...

    @property
    def taken(self) -> bool | None:
        """Whether the op is in the file; None while that is undecided."""
        ...


class Recorder(Protocol):
    """Turns a finished op into a span, and so into an op in ring, journal and analysis. Impl.: `spans.recorder`."""

    def record(
        self, op: ObservedOp, *, traceparent: str = "", tracestate: str = "", linked: Sequence[SpanRef] = ()
    ) -> Receipt | None:
        """Record *op*. Returns its receipt; None if a bound was reached and it was not taken."""
        ...


class BegunCall(NamedTuple):
    """A call in progress: the context of its future span, which is sent to the gateway, and that of its parent."""

    context: SpanContext
    parent: SpanContext | None


class CallSpans(Protocol):
    """Gives a call its span context when it begins, and makes span and op when it ends. Impl.: `spans.recorder`."""

    def begin(self, name: str, parent: SpanContext | None) -> BegunCall:
        """Choose the ids of the span of a new call; *parent* is the agent's span, if known."""
        ...

    def end(self, call: BegunCall, op: ObservedOp, times_ns: tuple[int, int], beside: Mapping[str, Any]) -> ObservedOp:
        """End *call* as *op*, between *times_ns*; *beside* are further attributes. Returns *op* with the span's ids."""
        ...


class SpanReader(Protocol):
    """Finds the operations among received spans. Implementation: `spans.conventions`."""

    def ops_of(self, resource_spans: ResourceSpans) -> Iterable[ObservedOp | None]:
        """Yield the ops among these spans, in the normal form, with the spans' own ids, in order and lazily.

        It may yield None for a span that is no op, so that the caller can let other tasks run in between.
        """
        ...


class SpanWitness(Protocol):
    """Records an op whose span already exists elsewhere. Implementation: `spans.received`."""

    def witness(self, op: ObservedOp) -> Receipt | None:
        """Record *op* under its own ids, without exporting it. Returns its receipt; None if it was not taken."""
        ...


class KnownEvents(Protocol):
    """Knows which event ids are in the journal. Implementation: `store.duplicates`."""

    def knows(self, event_id: str) -> bool:
        """Whether an op with that id is in the journal, as far back as ids are remembered."""
        ...


class Promise(Protocol):
    """The promise that something will be on disk: a `Receipt` without its op."""

    async def wait(self) -> None:
        """Return once it is on disk. Raises `JournalError` if it never will be."""
        ...

    @property
    def taken(self) -> bool | None:
        """Whether it is on disk; None while that is undecided."""
        ...


class RequestSpool(Protocol):
    """Takes OTLP requests that must reach the collector. Implementation: `export.spool_door`."""

    def put(self, request: bytes, spans: int) -> Promise | None:
        """Queue *request*, an `ExportTraceServiceRequest` of *spans* spans. Returns its receipt; None: no room."""
        ...


class ExportSampling(Protocol):
    """Decides which received spans are exported. Implementation: `export.tail_sampling`."""

    def kept(self, piece: ResourceSpans, failed: frozenset[bytes]) -> tuple[bytes, int]:
        """The serialised part of *piece* to export now, and its span count; *failed*: trace ids with failed ops."""
        ...


class SentOnce(Protocol):
    """Deduplicates events. Implementation: `store.duplicates`."""

    def once(self, op: ObservedOp, stamped: bool, record: Callable[[], Receipt]) -> tuple[Receipt, bool]:
        """The receipt of *op*, and whether it is the first with its `event_id`; *record* is called only if it is.

        *stamped*: the sender gave the timestamp. Raises ConflictError if the id is known with another payload.
        """
        ...

    def settle(self) -> None:
        """Drop receipts that have settled; call it after one was awaited."""
        ...


class Stage(Protocol):
    """A component with a life cycle. `stop` is idempotent and safe before `start`."""

    name: str

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Open; background tasks go into *tasks*."""
        ...

    async def stop(self) -> None:
        """Flush and close."""
        ...


class JournalFile(Protocol):
    """The file under a journal; tests substitute one that fails or stalls.

    *size* is its length in bytes, complete records only. All methods raise OSError.
    """

    size: int

    def append(self, data: bytes) -> None:
        """Append *data* all or nothing. Empty data: only do what is due by time, such as closing an old segment."""
        ...

    def sync(self) -> None:
        """Force the appended data to the device."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class JournalFollower(Protocol):
    """A component that reads a journal at its own pace. Implementation: `export.journal_export`."""

    async def let_go(self, offset: int) -> None:
        """Segments before *offset* will be dropped: count what is unread in them as lost, and continue at *offset*."""
        ...


class AnswerForm(NamedTuple):
    """The wanted form of an answer: a JSON *schema* with a *name*; *prompt* describes it in words."""

    name: str
    prompt: str
    schema: dict[str, Any]
    max_tokens: int


class TextModel(Protocol):
    """A model that turns a prompt into text. Implementations: `analysis.llm`, `analysis.chat_model`."""

    async def generate(self, prompt: str, form: AnswerForm | None = None, *, max_tokens: int = 400) -> str:
        """The model's non-empty answer to *prompt*: prose, or in the given *form* if the model can.

        Raises `UnusableAnswerError` if the answer is unusable (an easier question may help), else `ObserverError`.
        """
        ...


class DecisionLog(Protocol):
    """The journal of decisions (`decisions.jsonl`)."""

    async def decide(self, kind: str, body: object, follows: str | None) -> None:
        """Write one decision and wait until it is in the file. Raises `JournalError`."""
        ...


class AdviceSource(Protocol):
    """Tells agents what to do or avoid. Implementation: `advice.advisor`."""

    async def advise(self, query: AdviceQuery) -> Advice:
        """The advice for *query*, returned once its exposure is journalled. Raises RetryableError: no advice then."""
        ...

    async def report(self, exposure_id: str, *, success: bool) -> None:
        """Record an agent's report of an outcome. Raises NotKnownError, RetryableError."""
        ...

    async def inform(self, task: str) -> None:
        """Record that *task* reads the playbook by itself. Raises RetryableError."""
        ...


class PlaybookKeeper(Protocol):
    """The playbook for people: views and decisions. Implementation: `pipeline.learning_loop.LearningLoop`."""

    def views(self, as_of: str | None = None) -> Iterator[PlaybookView]:
        """The entries that say something or are told, last changed first; or all as of the time *as_of* (RFC 3339)."""
        ...

    def history(self, playbook_id: str) -> PlaybookHistory:
        """One entry with its full history. Raises NotKnownError."""
        ...

    async def change(
        self, playbook_id: str, action: EntryAction, why: str, version: int | None = None, *, who: str = ""
    ) -> PlaybookHistory:
        """Record a person's (*who*) decision on an entry; it has taken effect when this returns.

        Raises NotKnownError, RetryableError; ConflictError if an entry that says nothing is approved.
        """
        ...

    async def take_over(self, entries: Sequence[PlaybookEntry]) -> list[str]:
        """Import entries as versions here. Returns the ids of those that say something new. Raises RetryableError."""
        ...
