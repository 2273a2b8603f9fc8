"""Takes spans of agents that already trace: records the operations among them, and forwards all spans unchanged.

Input: serialised `ExportTraceServiceRequest`s from the gRPC and HTTP doors. Operations go through the span processor to
ring, journal and analysis; requests go to the collector's spool. A request is acknowledged once both are on disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from hashlib import blake2b

from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Status

from sidecar.errors import MalformedError, TooLargeError
from sidecar.protocols import ExportSampling, RequestSpool, SpanReader, SpanWitness
from sidecar.receivers.open_ops import OpenBatch, OpenOps
from sidecar.receivers.otlp_attempts import Attempt, Attempts, Ledger, Taken
from sidecar.receivers.otlp_json import JsonRequests
from sidecar.receivers.otlp_leaving import CHUNK_BYTES, Leaving
from sidecar.receivers.otlp_values import check_values
from sidecar.receivers.otlp_wire import Piece, Rejected, cut, read_piece

_TURN_S = 0.0015  # of processing before other tasks get a turn


class OtlpIntake:
    """Shared by all OTLP doors. Without a *spool*, spans are analysed but not forwarded."""

    def __init__(
        self,
        reader: SpanReader,
        witness: SpanWitness,
        spool: RequestSpool | None = None,
        sampling: ExportSampling | None = None,
        *,
        open_ops: OpenOps | None = None,
    ) -> None:
        self._reader = reader
        self._witness = witness
        self._spool = spool
        self._sampling = sampling
        self._open = open_ops or OpenOps()
        self.json = JsonRequests()
        self._attempts = Attempts()
        self.spans = 0
        self.ops = 0
        self.rejected = 0
        self.invalid = 0  # requests over HTTP that were refused for good; `grpc_guard` counts its own
        self.repeats = 0  # requests sent again after they were acknowledged

    async def take(
        self, request: bytes, rejected: Rejected | None = None, also_to: RequestSpool | None = None
    ) -> Taken:
        """Record and forward *request*; *rejected* spans were refused before. Returns once it is on disk.

        *also_to* gets all of it, whatever sampling chooses for the collector.

        A byte-identical retry is the same request: what was done of it is not repeated, whichever door it came by.
        Raises MalformedError, TooLargeError, and RetryableError if it should be sent again.
        """
        digest = blake2b(request, digest_size=16).digest()
        also = also_to is not None
        if (done := self._attempts.done(digest, also=also)) is not None:
            self.repeats += 1
            return done
        with self._attempts.at(digest) as attempt:
            async with attempt.lock:
                if attempt.taken is not None and attempt.is_done(also=also):
                    return attempt.taken
                try:
                    with self._open.batch() as held:
                        taken = await self._attempted(request, rejected or Rejected(), attempt, also_to, held)
                except BaseException:
                    self._attempts.forget_some(attempt)
                    raise
                attempt.also_taken |= also
                if attempt.taken is None:
                    attempt.taken = taken
                    self.spans += taken.spans
                    self.rejected += taken.rejected
                return taken

    @property
    def forgotten(self) -> int:
        """Failed requests dropped before a retry came."""
        return self._attempts.forgotten

    async def _attempted(
        self,
        request: bytes,
        rejected: Rejected,
        attempt: Attempt,
        also_to: RequestSpool | None,
        held: OpenBatch,
    ) -> Taken:
        """Do what is left to do of *request*."""
        breath = _Breath()
        parts = await _checked_parts(request, breath)
        attempt.begin()
        refused_before, spans, pieces = rejected.spans, 0, 0
        leaving = also_leaving = None
        if self._spool is not None and attempt.taken is None:
            leaving = Leaving(request, self._spool, attempt.spooled)
        if also_to is not None:
            also_leaving = Leaving(request, also_to, attempt.also_spooled)
        for part in parts:
            await breath.pause()
            if not part or not await _is_bounded(part, rejected, breath):
                continue
            piece = read_piece(part, rejected)
            if attempt.taken is None:
                failed = await self._learn(piece, attempt.ops, breath, held)
                if leaving is not None:
                    await leaving.add(*self._kept(piece, failed, attempt, pieces))
                pieces += 1
            if also_leaving is not None:
                await also_leaving.add(piece.data, piece.spans)
            spans += piece.spans
        if not spans and rejected.unreadable:
            raise MalformedError("the body is not an OTLP request", rejected.why, "Send an ExportTraceServiceRequest")
        for way in filter(None, (leaving, also_leaving)):
            way.end(spans if rejected.spans == refused_before else None)
        await attempt.settled(also=also_to is not None)
        return attempt.taken or Taken(spans, rejected.spans, rejected.why)

    async def _learn(self, piece: Piece, ledger: Ledger, breath: _Breath, held: OpenBatch) -> set[bytes]:
        """Record the operations of *piece*. Returns the trace ids of failed ones. Raises RetryableError."""
        failed: set[bytes] = set()
        unsettled = len(ledger)
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
        held.add(len(ledger) - unsettled, len(piece.data))
        if held.is_full:
            await ledger.half_settled()
            held.half_settled()
        return failed

    def _kept(self, piece: Piece, failed: set[bytes], attempt: Attempt, number: int) -> tuple[bytes, int]:
        """What sampling keeps of *piece*, *number* of its request, and the number of spans in it."""
        if self._sampling is None:
            return piece.data, piece.spans
        if number == len(attempt.sampled):
            parts = [
                self._sampling.kept(each, frozenset(failed | failed_traces(each))) for each in piece.resource_spans
            ]
            attempt.sampled.append((b"".join(data for data, _ in parts), sum(count for _, count in parts)))
        return attempt.sampled[number]


async def _checked_parts(request: bytes, breath: _Breath) -> Iterable[bytes]:
    """Check the framing of all of *request*, before anything is stored. Returns its parts, some of them empty.

    Those of a large request are cut anew one by one: together they would be a second copy of it.
    """
    is_large = len(request) > CHUNK_BYTES
    parts: list[bytes] = []
    for part in cut(request):
        if not is_large:
            parts.append(part)
        await breath.pause()
    return cut(request) if is_large else parts


async def _is_bounded(part: bytes, rejected: Rejected, breath: _Breath) -> bool:
    """Whether *part* is safe to parse; if not, it is rejected."""
    try:
        for _ in check_values(part):
            await breath.pause()
    except TooLargeError as exc:
        rejected.unreadable += 1
        rejected.add(str(exc))
        return False
    return True


class _Breath:
    """Lets other tasks run when a turn is over."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._began = self._time()

    def is_due(self) -> bool:
        """Whether the turn is over. Cheaper than awaiting a pause that is not due."""
        return self._time() - self._began > _TURN_S

    async def pause(self) -> None:
        """Let other tasks run, if the turn is over."""
        if self.is_due():
            await asyncio.sleep(0)
            self._began = self._time()


def failed_traces(resource_spans: ResourceSpans) -> set[bytes]:
    """Trace ids of spans with an error status."""
    return {
        span.trace_id
        for scope_spans in resource_spans.scope_spans
        for span in scope_spans.spans
        if span.status.code == Status.STATUS_CODE_ERROR
    }
