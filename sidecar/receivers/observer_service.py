"""`sidecar.pb.v1.ObserverService`: `/event`, `/ops/stream`, `/stats`, `/incidents` and the like, over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_args

from sidecar.errors import InvalidInputError, ObserverError, TooLargeError
from sidecar.model import Incident, IncidentState, ObservedOp
from sidecar.model_learning import PlaybookEntry
from sidecar.normalize import MAX_ENTRIES
from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pb.v1.observer_pb2_grpc import ObserverServiceServicer
from sidecar.protocols import AdviceSource, Receipt
from sidecar.receivers.event_intake import LARGE_BYTES, EventIntake
from sidecar.receivers.op_filter import ADVICE_LIMIT, EXACT, MAX_ADVICE, MAX_QUESTION_BYTES, MAX_TASK, OpQuery
from sidecar.receivers.op_messages import (
    advice_message,
    advice_query_of,
    event_of,
    incident_message,
    op_message,
    playbook_message,
)
from sidecar.receivers.read_resources import STREAM_IDLE_S, FeedView, RingView
from sidecar.receivers.rpc_status import status_of

T = TypeVar("T")

_OUTSTANDING = 32  # results of a stream not sent to the client yet; each holds an op of up to `LARGE_BYTES`
_Result: TypeAlias = Receipt | pb.RecordResponse | ObserverError
_PAGE, _MOST_PAGE = 100, 1000
_RECENT = 10
_CONTEXT = ("traceparent", "tracestate")


class Memory(NamedTuple):
    """What the observer has learnt, as lists."""

    incidents: Callable[[], Iterable[Incident]]
    playbooks: Callable[[], Iterable[PlaybookEntry]]


class ObserverService(ObserverServiceServicer):
    """The servicer. It raises errors as they are; `grpc_guard` turns them into statuses."""

    def __init__(
        self,
        intake: EventIntake,
        ring: RingView,
        feed: FeedView,
        memory: Memory,
        *,
        advisor: AdviceSource,
        clean: Callable[[str], str],
    ) -> None:
        self._intake = intake
        self._advisor = advisor
        self._clean = clean
        self._ring = ring
        self._feed = feed
        self._memory = memory

    async def Record(self, request: pb.RecordRequest, context: Any) -> pb.RecordResponse:  # noqa: N802 - the protocol's
        """Record one operation, like `POST /event`."""
        said = _metadata(context)
        receipt = await self._recorded_op(request.op, _trace_context(said), said.get("idempotency-key", ""))
        await self._intake.settled((receipt,))
        return self._recorded(receipt.op)

    async def RecordStream(  # noqa: N802 - the protocol's
        self, requests: AsyncIterator[pb.RecordStreamRequest], context: Any
    ) -> AsyncIterator[pb.RecordStreamResponse]:
        """Record a stream of operations; results come in the same order."""
        headers = _trace_context(_metadata(context))
        results: asyncio.Queue[_Result | None] = asyncio.Queue(_OUTSTANDING)
        reading = asyncio.create_task(self._take_all(requests, headers, results))
        try:
            index = 0
            while (result := await results.get()) is not None:
                yield await self._result(index, result)
                index += 1
            await reading  # if the request stream failed, raise its error
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait([reading])

    async def _take_all(
        self,
        requests: AsyncIterator[pb.RecordStreamRequest],
        headers: dict[str, str],
        results: asyncio.Queue[_Result | None],
    ) -> None:
        """Put a result for each request, then None. If it is cancelled nobody reads, and *results* may be full."""
        try:
            async for request in requests:
                await results.put(await self._take(request.op, headers))
        except Exception:
            await results.put(None)
            raise
        await results.put(None)

    async def _take(self, op: pb.ObservedOp, headers: dict[str, str]) -> _Result:
        try:
            receipt = await self._recorded_op(op, headers)
            if op.ByteSize() <= LARGE_BYTES:
                return receipt
            await self._intake.settled((receipt,))  # a client that does not read would have us hold many of them
            return self._recorded(receipt.op)
        except ObserverError as exc:
            return exc

    async def _recorded_op(self, op: pb.ObservedOp, headers: dict[str, str], key: str = "") -> Receipt:
        if op.ByteSize() > LARGE_BYTES:
            return await self._intake.record_large(event_of(op), headers, key)
        return self._intake.record(event_of(op), headers, key)

    async def _result(self, index: int, result: _Result) -> pb.RecordStreamResponse:
        failure: ObserverError
        if isinstance(result, ObserverError):
            failure = result
        elif isinstance(result, pb.RecordResponse):
            return pb.RecordStreamResponse(index=index, recorded=result)
        else:
            try:
                await self._intake.settled((result,))
                return pb.RecordStreamResponse(index=index, recorded=self._recorded(result.op))
            except ObserverError as exc:
                failure = exc
        status = status_of(failure)
        return pb.RecordStreamResponse(index=index, rejected=pb.Rejection(code=status.code, message=status.message))

    async def Watch(  # noqa: N802 - the protocol's
        self, request: pb.WatchRequest, context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
        """Stream operations as they settle. Headers are sent at once; from then on, missed ops are reported."""
        query = _query(request)
        told = 0
        with self._feed.watch(query.wants) as watch:
            await context.send_initial_metadata(())
            async for batch in watch.batches(STREAM_IDLE_S):
                if (missed := watch.missed) > told:
                    yield pb.WatchResponse(missed=missed - told)
                    told = missed
                for op in batch:
                    yield pb.WatchResponse(op=op_message(op))

    async def GetStats(  # noqa: N802 - the protocol's
        self, _request: pb.GetStatsRequest, _context: Any
    ) -> pb.GetStatsResponse:
        """Counts over the ring."""
        ring = self._ring
        recent: list[ObservedOp] = []
        for op in ring.newest_first():
            if op.source == "scenario":
                recent.append(op)
                if len(recent) == _RECENT:
                    break
        return pb.GetStatsResponse(
            total=len(ring),
            successes=ring.successes,
            failures=ring.failures,
            by_source=dict(ring.by_source),
            recent_scenario_ops=[_brief(op) for op in reversed(recent)],
        )

    async def ListIncidents(  # noqa: N802 - the protocol's
        self, request: pb.ListIncidentsRequest, _context: Any
    ) -> pb.ListIncidentsResponse:
        """One page of incidents, most recently seen first."""
        states = _states(request.states)
        page, token = _page(
            (each for each in self._memory.incidents() if not states or each.state in states),
            lambda each: (each.last_seen, each.fingerprint),
            request.page_size,
            request.page_token,
        )
        return pb.ListIncidentsResponse(incidents=map(incident_message, page), next_page_token=token)

    async def ListPlaybooks(  # noqa: N802 - the protocol's
        self, request: pb.ListPlaybooksRequest, _context: Any
    ) -> pb.ListPlaybooksResponse:
        """One page of entries, newest first."""
        page, token = _page(
            self._memory.playbooks(), lambda each: (each.at, each.playbook_id), request.page_size, request.page_token
        )
        return pb.ListPlaybooksResponse(playbooks=map(playbook_message, page), next_page_token=token)

    async def GetAdvice(  # noqa: N802 - the protocol's
        self, request: pb.GetAdviceRequest, _context: Any
    ) -> pb.GetAdviceResponse:
        """What to do or avoid now, like `GET /advice`."""
        _check_advice(request)
        query = advice_query_of(request, self._clean, MAX_ADVICE, ADVICE_LIMIT)
        return advice_message(await self._advisor.advise(query))

    async def ReportOutcome(  # noqa: N802 - the protocol's
        self, request: pb.ReportOutcomeRequest, _context: Any
    ) -> pb.ReportOutcomeResponse:
        """Report an outcome, like `POST /advice/{exposure_id}/outcome`."""
        await self._advisor.report(request.exposure_id, success=request.success)
        return pb.ReportOutcomeResponse()

    def _recorded(self, op: ObservedOp) -> pb.RecordResponse:
        return pb.RecordResponse(
            trace_id=op.trace_id or "", span_id=op.span_id or "", ring_size=self._intake.ring_size()
        )


def _check_advice(request: pb.GetAdviceRequest) -> None:
    """Refuse what `GET /advice` would refuse. Raises InvalidInputError."""
    _check_size(request)
    wrong = None
    if not request.endpoint:
        wrong = "endpoint is missing"
    elif request.HasField("task") and not 0 < len(request.task) <= MAX_TASK:
        wrong = f"task is not 1 to {MAX_TASK} characters long"
    elif len(request.facts) > MAX_ENTRIES:
        wrong = f"there are more than {MAX_ENTRIES} facts"
    elif len(request.given) > MAX_ENTRIES:
        wrong = f"more than {MAX_ENTRIES} are given"
    elif request.limit < 0:
        wrong = f"limit is {request.limit}"
    if wrong is not None:
        raise InvalidInputError(wrong, "no advice can be given for that", "See observer.proto")


def _check_size(question: pb.GetAdviceRequest | pb.WatchRequest) -> None:
    """Refuse texts that would not fit into the head of an HTTP request. Raises TooLargeError."""
    size = question.ByteSize()
    if size > MAX_QUESTION_BYTES:
        raise TooLargeError(f"{size} bytes in the request", f"at most {MAX_QUESTION_BYTES} are read", "Send less")


def _query(request: pb.WatchRequest) -> OpQuery:
    """The filters of *request*. Raises InvalidInputError."""
    _check_size(request)
    for name in request.equals:
        if name not in EXACT:
            raise InvalidInputError(f"{name[:80]!r} is not a filter", f"filters are {', '.join(EXACT)}", "Name one")
    success = request.success if request.HasField("success") else None
    return OpQuery(exact=dict(request.equals), success=success, since=None, until=None, limit=0, cursor=None)


def _states(wanted: Iterable[str]) -> frozenset[str]:
    """The states in *wanted*. Raises InvalidInputError."""
    states, known = frozenset(wanted), get_args(IncidentState)
    if unknown := sorted(states.difference(known)):
        raise InvalidInputError(f"{unknown[0][:80]!r} is not a state", f"states are {', '.join(known)}", "Name one")
    return states


def _page(items: Iterable[T], key: Callable[[T], tuple[str, str]], size: int, token: str) -> tuple[Sequence[T], str]:
    """The page after *token*, newest first, and the next page's token. Raises InvalidInputError.

    A token holds the key of its page's last item, so that items added meanwhile do not shift the pages.
    """
    if size < 0:
        raise InvalidInputError(f"page_size is {size}", "expected a number from 0 on", "Leave it out, or correct it")
    ordered = sorted(items, key=key, reverse=True)
    if token:
        at, _, name = token.partition(" ")
        if not name:
            raise InvalidInputError("page_token is malformed", "it was not given by the observer", "Begin without one")
        ordered = [item for item in ordered if key(item) < (at, name)]
    most = min(size or _PAGE, _MOST_PAGE)
    page = ordered[:most]
    return page, " ".join(key(page[-1])) if len(ordered) > most else ""


def _brief(op: ObservedOp) -> pb.ScenarioOp:
    return pb.ScenarioOp(ts=op.timestamp, ok=op.success, staffer=op.staffer_id, kind=op.event_kind, role=op.role)


def _metadata(context: Any) -> dict[str, str]:
    return {str(key): value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _trace_context(metadata: dict[str, str]) -> dict[str, str]:
    return {name: metadata[name] for name in _CONTEXT if name in metadata}
