"""The seams between rooms: one to three methods each, only where two implementations exist."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from sidecar.model import Fragment, LangfuseTold, ObservedOp, OutboxLook, Post, PostOutcome, Score, SpanRef
from sidecar.model_learning import Advice, AdviceQuery, EntryAction, PlaybookEntry, PlaybookHistory, PlaybookView

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
    from opentelemetry.trace import SpanContext


class Clock(Protocol):
    """Time as the observer sees it. Real one: `clock.SystemClock`."""

    def time_ns(self) -> int:
        """Wall clock, ns since the Unix epoch: for timestamps only."""
        ...

    def monotonic(self) -> float:
        """Seconds: for intervals and deadlines."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, letting other tasks run."""
        ...


class OpConsumer(Protocol):
    """Whatever ops flow into: ring, live feed, analysis. One method is the whole contract."""

    def consume(self, op: ObservedOp) -> None:
        """Take one op that is settled. Must not block."""
        ...


@runtime_checkable
class OpCounter(OpConsumer, Protocol):
    """A consumer that counts ops, and can take one back: ended ops never change, but later ones amend them."""

    def retract(self, op: ObservedOp) -> None:
        """*op*, consumed before, counts no more; what took its place is consumed next. Must not block."""
        ...


class Receipt(Protocol):
    """The promise that one op is in the journal."""

    op: ObservedOp

    async def wait(self) -> None:
        """Return once the op is in the file. Raises `JournalError` if it is not and will not be."""
        ...

    @property
    def taken(self) -> bool | None:
        """Whether the op is in the file; None while that is not known."""
        ...


class Recorder(Protocol):
    """Makes a finished op a span, and so an op in ring, journal and analysis. Real one: `spans.recorder`."""

    def record(
        self, op: ObservedOp, *, traceparent: str = "", tracestate: str = "", linked: Sequence[SpanRef] = ()
    ) -> Receipt | None:
        """The receipt of *op*, or None if a bound was reached and it was not taken."""
        ...


class BegunCall(NamedTuple):
    """A call that is under way: the ids that its span will have, which the gateway is told, and those of its parent."""

    context: SpanContext
    parent: SpanContext | None


class CallSpans(Protocol):
    """Makes a call a span whose ids are known from its beginning, and its end an op. Real one: `spans.recorder`."""

    def begin(self, name: str, parent: SpanContext | None) -> BegunCall:
        """The ids of the span of a call that begins within *parent*, the agent's."""
        ...

    def end(self, call: BegunCall, op: ObservedOp, times_ns: tuple[int, int], beside: Mapping[str, Any]) -> ObservedOp:
        """*call* came to *op*, between *times_ns*; *beside* are attributes beside the op's. Gives it its ids."""
        ...


class SpanReader(Protocol):
    """Finds the operations among received spans. Real one: `spans.conventions`."""

    def ops_of(self, resource_spans: ResourceSpans) -> Iterable[ObservedOp | None]:
        """The ops that these spans are, in the normal form, with the spans' own ids; in order, made one by one.

        None may stand for a span that is no op: whoever iterates lets other tasks run in between.
        """
        ...


class SpanWitness(Protocol):
    """Records an op whose span exists already, elsewhere. Real one: `spans.received`."""

    def witness(self, op: ObservedOp) -> Receipt | None:
        """The receipt of *op*, which keeps its ids and is not exported; None if it was not taken."""
        ...


class FragmentOps(Protocol):
    """Reads what Langfuse was told of an observation. Real one: `spans.fragment_reader`."""

    def op_of(self, fragment: Fragment) -> ObservedOp | None:
        """The op, in the normal form, that *fragment* tells all of; None if it is none."""
        ...


class KnownEvents(Protocol):
    """Knows which events are in the journal. Real one: `store.duplicates`."""

    def knows(self, event_id: str) -> bool:
        """Whether an op with that id is in the journal, as far back as ids are remembered."""
        ...


class LangfuseInbox(Protocol):
    """Takes what Langfuse is told. Real one: `analysis.langfuse_desk`."""

    async def take(self, told: LangfuseTold) -> None:
        """Return once *told* is on disk, and what is whole of it an op. Raises RetryableError."""
        ...

    async def observed(self, fragments: Sequence[Fragment]) -> None:
        """Return once the observations that were pulled are ops, but for those that are known. RetryableError."""
        ...

    async def scored(self, scores: Sequence[Score]) -> None:
        """Return once the scores that were pulled are on disk, but for those that are known. RetryableError."""
        ...


class LangfuseForward(Protocol):
    """Passes on to Langfuse what came for it. Real one: `export.langfuse_forward`."""

    def put(self, path: str, headers: dict[str, str], body: bytes, items: int) -> Promise | None:
        """The receipt of a POST of *items* things, to *path* of Langfuse's API; None if there was no room."""
        ...


class RelayedAnswer(NamedTuple):
    """What Langfuse said; *error* tells why there is no answer of its own."""

    status: int
    media: str
    body: bytes
    error: str


class LangfuseAnswers(Protocol):
    """Answers what SDKs ask of Langfuse. Real one: `export.langfuse_relay`."""

    async def ask(self, method: str, target: str, media: str, body: bytes) -> RelayedAnswer:
        """Make one bounded attempt; *target* is path and query, *media* the content type of *body*. Never raises."""
        ...


class Promise(Protocol):
    """The promise that something is on disk: what a `Receipt` is, without saying of what."""

    async def wait(self) -> None:
        """Return once it is. Raises `JournalError` if it is not and will not be."""
        ...

    @property
    def taken(self) -> bool | None:
        """Whether it is on disk; None while that is not known."""
        ...


class RequestSpool(Protocol):
    """Takes OTLP requests that must reach the collector. Real one: `export.spool_door`."""

    def put(self, request: bytes, spans: int) -> Promise | None:
        """The receipt of *request*, an `ExportTraceServiceRequest` of *spans* spans; None if there was no room."""
        ...


class ExportSampling(Protocol):
    """Chooses what of the received spans leaves. Real one: `export.tail_sampling`."""

    def kept(self, piece: ResourceSpans, failed: frozenset[bytes]) -> tuple[bytes, int]:
        """The part of a request to pass on now, serialised, and its spans; *failed* are trace ids with failed ops."""
        ...


class SentOnce(Protocol):
    """Finds events that were sent before. Real one: `store.duplicates`."""

    def once(self, op: ObservedOp, stamped: bool, record: Callable[[], Receipt]) -> tuple[Receipt, bool]:
        """The receipt of *op*, which has an `event_id`, and whether it is the first with it; only then *record* runs.

        *stamped*: the sender gave the timestamp. Raises ConflictError if the id is known with another payload.
        """
        ...

    def settle(self) -> None:
        """Let go of the receipts that are settled; call it when one was awaited."""
        ...


class Stage(Protocol):
    """A room with something to open and close. `stop` is idempotent and safe before `start`."""

    name: str

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Open; loops go into *tasks*."""
        ...

    async def stop(self) -> None:
        """Flush and close."""
        ...


class JournalFile(Protocol):
    """The file under a journal; tests put one here that fails or stalls.

    *size* is its length in bytes, whole records only. All methods raise OSError.
    """

    size: int

    def append(self, data: bytes) -> None:
        """Write *data* whole at the end, or leave the file as it was. Empty data: do what is due by time alone."""
        ...

    def sync(self) -> None:
        """Force what was appended to the device."""
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


class JournalFollower(Protocol):
    """Whoever reads a journal on its own account. Real one: `export.journal_export`."""

    async def let_go(self, offset: int) -> None:
        """Segments before *offset* are about to go: count what was not read yet as lost, and go on from there."""
        ...


class AnswerForm(NamedTuple):
    """The form that an answer is wanted in: a JSON *schema* with a *name*; the *prompt* asks for it in words."""

    name: str
    prompt: str
    schema: dict[str, Any]
    max_tokens: int


class TextModel(Protocol):
    """A model that turns a prompt into text. Real ones: `analysis.llm`, `analysis.chat_model`."""

    async def generate(self, prompt: str, form: AnswerForm | None = None, *, max_tokens: int = 400) -> str:
        """The answer, not empty: to *prompt* in prose, or in *form* if the model can.

        Raises `UnusableAnswerError` when it is no use (an easier question may help), else `ObserverError`.
        """
        ...


class GatewayLog(Protocol):
    """Where the observer tells the gateway what it learnt: `POST {GATEWAY_URL}/log`."""

    async def post(self, key: str, path: str, body: bytes) -> None:
        """Make one bounded attempt to send *body* (JSON) to *path*; *key* is the same for the same content.

        Raises `RetryableError` (`GatewayLogError` may say when to come again), and any other `ObserverError` where
        the same post would be refused again.
        """
        ...


class PostSink(Protocol):
    """Takes posts that must arrive. Real one: `export.outbox`."""

    async def put(self, kind: str, entry: Mapping[str, Any], url: str = "/log") -> None:
        """Return once *entry* is on disk, to be sent until it is taken; a repetition is none. `RetryableError`."""
        ...

    def put_again(self, kind: str, entry: Mapping[str, Any], decided_at: str, url: str = "/log") -> None:
        """The same, later: for what the decision journal has, *decided_at* (RFC 3339). It may be there, or not.

        The next checkpoint is saved behind it.
        """
        ...


class OutboxStore(Protocol):
    """Where posts wait, on disk. All methods raise `RetryableError` when the disk does not take or give them."""

    async def put(self, posts: Sequence[Post], now_ns: int) -> tuple[int, int]:
        """Keep *posts*, each once by its key: how many are new, and for how many there was no room."""
        ...

    async def look(self, now_ns: int) -> OutboxLook:
        """Give the oldest post that is due, and the counts."""
        ...

    async def settle(self, number: int, outcome: PostOutcome) -> int:
        """Write down what became of a post: how many dead letters had to make room."""
        ...


class DecisionLog(Protocol):
    """The journal of what the observer decided (`decisions.jsonl`)."""

    async def decide(self, kind: str, body: object, follows: str | None) -> None:
        """Write one decision and wait until it is in the file. Raises `JournalError`."""
        ...


class AdviceSource(Protocol):
    """Tells agents what to do or avoid. Real one: `advice.advisor`."""

    async def advise(self, query: AdviceQuery) -> Advice:
        """What is told, once it is written down. Raises RetryableError: nothing is told then."""
        ...

    async def report(self, exposure_id: str, *, success: bool) -> None:
        """An agent says how it went. Raises NotKnownError, RetryableError."""
        ...

    async def inform(self, task: str) -> None:
        """*task* reads the playbook by itself. Raises RetryableError."""
        ...


class PlaybookKeeper(Protocol):
    """The playbook, as people see it and lay hands on it. Real one: `pipeline_advice.LearningLoop`."""

    def views(self, as_of: str | None = None) -> Iterator[PlaybookView]:
        """All entries, the most recently changed first; as they were at the moment *as_of* (RFC 3339)."""
        ...

    def history(self, playbook_id: str) -> PlaybookHistory:
        """One entry with all that was. Raises NotKnownError."""
        ...

    async def change(
        self, playbook_id: str, action: EntryAction, why: str, version: int | None = None, *, who: str = ""
    ) -> PlaybookHistory:
        """The decision of a person (*who*) on an entry, taken when this returns.

        Raises NotKnownError, RetryableError; ConflictError for the approval of what says nothing.
        """
        ...

    async def take_over(self, entries: Sequence[PlaybookEntry]) -> list[str]:
        """Entries from elsewhere become versions here; the ids of those that say something new. RetryableError."""
        ...
