"""Spans of agents that already trace: learnt from where they are operations, and passed on as they came.

From the gRPC and HTTP doors, as serialised `ExportTraceServiceRequest`s, to ring, journal and analysis through the
span processor, and to the collector through the spool. A request is acknowledged once both have it on disk.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Status

from sidecar.errors import MalformedError, OverloadedError
from sidecar.protocols import ExportSampling, Promise, RequestSpool, SpanReader, SpanWitness
from sidecar.receivers.otlp_json import JsonRequests
from sidecar.receivers.otlp_wire import Piece, Rejected, cut, read_piece

_TURN_S = 0.0015  # of reading before other tasks get a turn
_MOST_UNFINISHED = 64
_MOST_RECEIPTS = 20_000
_MOST_FINISHED = 4096
_CHUNK_BYTES = 2 * 2**20  # of a spooled request: collectors refuse gRPC messages over 4 MiB by default


class Taken(NamedTuple):
    """What became of a request: its spans, those refused, and why."""

    spans: int
    rejected: int
    why: str

    def response(self) -> ExportTraceServiceResponse:
        """As the protocol says it. Source: OTLP specification, Partial Success."""
        response = ExportTraceServiceResponse()
        if self.rejected:
            response.partial_success.rejected_spans = self.rejected
            response.partial_success.error_message = self.why
        return response


class OtlpIntake:
    """What all OTLP doors share. Without a *spool* spans are learnt from, and go no further."""

    def __init__(
        self,
        reader: SpanReader,
        witness: SpanWitness,
        spool: RequestSpool | None = None,
        sampling: ExportSampling | None = None,
    ) -> None:
        self._reader = reader
        self._witness = witness
        self._spool = spool
        self._sampling = sampling
        self.json = JsonRequests()
        self._unfinished: OrderedDict[bytes, _Attempt] = OrderedDict()
        self._finished: OrderedDict[bytes, Taken] = OrderedDict()
        self.spans = 0
        self.ops = 0
        self.rejected = 0
        self.repeats = 0  # requests sent again after they were acknowledged

    async def take(
        self, request: bytes, rejected: Rejected | None = None, also_to: RequestSpool | None = None
    ) -> Taken:
        """Learn from *request* and pass it on; *rejected* spans were refused before. Returns once it is on disk.

        *also_to* gets all of it, whatever is chosen of it for the collector.

        A request sent again, byte for byte, is the same one: what was done of it is not done anew. Raises
        MalformedError, TooLargeError, and RetryableError where it should be sent again.
        """
        digest = blake2b(request, digest_size=16).digest()
        if (taken := self._finished.get(digest)) is not None:
            self.repeats += 1
            return taken
        attempt = self._unfinished.setdefault(digest, _Attempt())
        async with attempt.lock:
            if attempt.taken is None:
                try:
                    attempt.taken = await self._attempted(request, rejected or Rejected(), attempt, also_to)
                except BaseException:
                    self._forget_some()
                    raise
                self._finish(digest, attempt.taken)
        return attempt.taken

    def _finish(self, digest: bytes, taken: Taken) -> None:
        self._unfinished.pop(digest, None)
        self._finished[digest] = taken
        if len(self._finished) > _MOST_FINISHED:
            self._finished.popitem(last=False)
        self.spans += taken.spans
        self.rejected += taken.rejected

    def _forget_some(self) -> None:
        """Of many requests that failed and did not come again the oldest are forgotten: receipts take memory."""
        while (
            len(self._unfinished) > _MOST_UNFINISHED
            or sum(len(attempt.ops) for attempt in self._unfinished.values()) > _MOST_RECEIPTS
        ):
            self._unfinished.popitem(last=False)

    async def _attempted(
        self, request: bytes, rejected: Rejected, attempt: _Attempt, also_to: RequestSpool | None
    ) -> Taken:
        """Do what is still to be done of *request*."""
        breath = _Breath()
        parts: list[bytes] = []
        for part in cut(request):  # the whole of it, before anything is kept
            if part:
                parts.append(part)
            await breath.pause()
        for ledger in attempt.ledgers:
            ledger.begin()
        refused_before = rejected.spans
        leaving: list[tuple[bytes, int]] = []
        pieces: list[tuple[bytes, int]] = []
        for part in parts:
            piece = read_piece(part, rejected)
            failed = await self._learn(piece, attempt.ops, breath)
            leaving.append(self._leaving(piece, failed))
            pieces.append((piece.data, piece.spans))
            await breath.pause()
        spans = sum(count for _, count in pieces)
        if not spans and rejected.unreadable:
            raise MalformedError("the body is not an OTLP request", rejected.why, "Send an ExportTraceServiceRequest")
        is_whole = rejected.spans == refused_before and len(request) <= _CHUNK_BYTES
        for spool, parts_of_it, ledger in (
            (self._spool, leaving, attempt.spooled),
            (also_to, pieces, attempt.also_spooled),
        ):
            if spool is not None:
                as_it_is = is_whole and spans == sum(count for _, count in parts_of_it)
                _pass_on(spool, [(request, spans)] if as_it_is else parts_of_it, ledger)
        for ledger in attempt.ledgers:
            for receipt in ledger.receipts:
                await receipt.wait()
        return Taken(spans, rejected.spans, rejected.why)

    async def _learn(self, piece: Piece, ledger: _Ledger, breath: _Breath) -> set[bytes]:
        """Record the operations of *piece*; the trace ids of those that failed. Raises OverloadedError."""
        failed: set[bytes] = set()
        for resource_spans in piece.resource_spans:
            for op in self._reader.ops_of(resource_spans):
                if op is not None:
                    if not op.success and op.trace_id:
                        failed.add(bytes.fromhex(op.trace_id))
                    if not ledger.has_next():
                        ledger.add(self._witness.witness(op), "the journal cannot keep up")
                        self.ops += 1
                if breath.is_due():
                    await breath.pause()
        return failed

    def _leaving(self, piece: Piece, failed: set[bytes]) -> tuple[bytes, int]:
        if self._sampling is None or self._spool is None:
            return piece.data, piece.spans
        parts = [self._sampling.kept(each, frozenset(failed | failed_traces(each))) for each in piece.resource_spans]
        return b"".join(data for data, _ in parts), sum(count for _, count in parts)


def _pass_on(spool: RequestSpool, leaving: Iterable[tuple[bytes, int]], ledger: _Ledger) -> None:
    """Into *spool*, in requests that collectors take. Raises OverloadedError."""
    for data, spans in _chunks(leaving):
        if not ledger.has_next():
            ledger.add(spool.put(data, spans), "the spool cannot keep up")


def _chunks(leaving: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Neighbours together, as long as they are small: requests, one behind the other, are one request."""
    gathered: list[bytes] = []
    size = spans = 0
    for data, count in leaving:
        if gathered and size + len(data) > _CHUNK_BYTES:
            yield b"".join(gathered), spans
            gathered, size, spans = [], 0, 0
        if count:
            gathered.append(data)
            size += len(data)
            spans += count
    if gathered:
        yield b"".join(gathered), spans


class _Ledger:
    """Receipts of the first things of a list; a second walk over the list makes those again that failed."""

    def __init__(self) -> None:
        self.receipts: list[Promise] = []
        self._at = 0

    def __len__(self) -> int:
        return len(self.receipts)

    def begin(self) -> None:
        """Walk from the first on."""
        self._at = 0

    def has_next(self) -> bool:
        """Whether the next one has a receipt that did not fail; it is passed over then."""
        has = self._at < len(self.receipts) and self.receipts[self._at].taken is not False
        self._at += has
        return has

    def add(self, receipt: Promise | None, why_none: str) -> None:
        """The next one's. Raises OverloadedError if there is none."""
        if receipt is None:
            raise OverloadedError(why_none, "too much waits to be written", "Send it again later")
        self.receipts[self._at : self._at + 1] = [receipt]
        self._at += 1


class _Attempt:
    """One request under way, and what was reached at it: a retry goes on from there."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.ops = _Ledger()
        self.spooled = _Ledger()
        self.also_spooled = _Ledger()
        self.taken: Taken | None = None

    @property
    def ledgers(self) -> tuple[_Ledger, ...]:
        """All of them."""
        return self.ops, self.spooled, self.also_spooled


class _Breath:
    """Lets other tasks run when a turn is over."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._began = self._time()

    def is_due(self) -> bool:
        """Whether it is time: to ask so costs less than to await nothing."""
        return self._time() - self._began > _TURN_S

    async def pause(self) -> None:
        """Now, if it is time."""
        if self.is_due():
            await asyncio.sleep(0)
            self._began = self._time()


def failed_traces(resource_spans: ResourceSpans) -> set[bytes]:
    """Trace ids with a span whose status is an error."""
    return {
        span.trace_id
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
        if span.status.code == Status.STATUS_CODE_ERROR
    }
