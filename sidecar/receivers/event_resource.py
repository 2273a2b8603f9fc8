"""`POST /event` and `POST /events`: events become spans, and are acknowledged once they are in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import falcon
import falcon.asgi
import msgspec

from sidecar.clock import rfc3339_ms
from sidecar.errors import (
    ConflictError,
    InvalidInputError,
    MalformedError,
    OverloadedError,
    RetryableError,
    TooLargeError,
)
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.protocols import Clock, Receipt, Recorder, SentOnce
from sidecar.receivers.bodies import BodyReader, parse_json
from sidecar.receivers.event_fields import event_op

MAX_EVENT_BYTES = 2**20
MAX_BATCH_BYTES = 20 * 2**20
MAX_BATCH_EVENTS = 50_000
MAX_BATCH_VALUES = 1_000_000  # commas of an array, lines of NDJSON
_TURN_S = 0.005  # of handling events before other tasks get a turn
LARGE_BYTES = 32 * 1024  # above, reading and masking one event holds up others for more than a few milliseconds
_MOST_TURNS = 10  # for the others, after events that took long: an answer takes several

_TEXT = (bytes, msgspec.Raw)  # of JSON

_raw_array = msgspec.json.Decoder(list[msgspec.Raw])


class Repeat:
    """The receipt of an event that was sent before: that of the first attempt."""

    def __init__(self, first: Receipt) -> None:
        self._first = first
        self.op = first.op

    async def wait(self) -> None:
        """As the first."""
        await self._first.wait()

    @property
    def taken(self) -> bool | None:
        """As the first."""
        return self._first.taken


class EventIntake:
    """What both doors share: one event → op → span → receipt. Counts what it accepted and refused."""

    def __init__(
        self,
        recorder: Recorder,
        normalizer: Normalizer,
        clock: Clock,
        ring_size: Callable[[], int],
        sent_once: SentOnce,
    ) -> None:
        self._recorder = recorder
        self._normalizer = normalizer
        self._clock = clock
        self.ring_size = ring_size
        self._sent_once = sent_once
        self._millisecond, self._now_text = -1, ""
        self._large = asyncio.Lock()
        self.accepted = 0
        self.invalid = 0
        self.repeats = 0
        self.conflicts = 0

    def record(self, event: object, headers: dict[str, str], idempotency_key: str = "") -> Receipt:
        """The receipt of *event*, JSON text or read from it; *headers* may hold W3C trace context.

        *idempotency_key* is the event's id, if it has none. An event sent before is not recorded: its receipt is a
        `Repeat`. Raises InvalidInputError if the event is wrong, ConflictError if its id is another's,
        OverloadedError if there is no room.
        """
        try:
            op, stamped = self._read(event, idempotency_key, self._now())
        except InvalidInputError:
            self.invalid += 1
            raise
        return self._taken(op, stamped, headers)

    @property
    def reading_large(self) -> bool:
        """Whether a large event is being read just now."""
        return self._large.locked()

    async def record_large(self, event: object, headers: dict[str, str], idempotency_key: str = "") -> Receipt:
        """As `record`, for an event of more than `LARGE_BYTES`: read in a thread, one at a time."""
        async with self._large:
            try:
                op, stamped = await asyncio.to_thread(self._read, event, idempotency_key, self._now())
            except InvalidInputError:
                self.invalid += 1
                raise
            return self._taken(op, stamped, headers)

    def _read(self, event: object, idempotency_key: str, now: str) -> tuple[ObservedOp, bool]:
        """The op of *event*, and whether it said when it was. Keeps nothing: any thread may call it."""
        raw = parse_json(event) if isinstance(event, _TEXT) else event
        if idempotency_key and isinstance(raw, dict) and raw.get("event_id") in (None, ""):
            raw["event_id"] = idempotency_key
        op = event_op(raw, now, self._normalizer)
        return op, isinstance(raw, dict) and raw.get("timestamp") is not None

    def _taken(self, op: ObservedOp, stamped: bool, headers: dict[str, str]) -> Receipt:
        if not op.event_id:
            return self._recorded(op, headers)
        try:
            receipt, first = self._sent_once.once(op, stamped, lambda: self._recorded(op, headers))
        except ConflictError:
            self.conflicts += 1
            raise
        if first:
            return receipt
        self.repeats += 1
        return Repeat(receipt)

    async def settled(self, receipts: Sequence[Receipt]) -> None:
        """Wait for every receipt, and count what is accepted. Raises JournalError if one failed."""
        try:
            for receipt in receipts:
                await receipt.wait()
        finally:
            self._sent_once.settle()
        self.accepted += len([receipt for receipt in receipts if type(receipt) is not Repeat])

    def _recorded(self, op: ObservedOp, headers: dict[str, str]) -> Receipt:
        receipt = self._recorder.record(
            op, traceparent=headers.get("traceparent", ""), tracestate=headers.get("tracestate", "")
        )
        if receipt is None:
            raise OverloadedError("the journal cannot keep up", "too much waits to be written", "Send it again later")
        return receipt

    def _now(self) -> str:
        millisecond = self._clock.time_ns() // 1_000_000
        if millisecond != self._millisecond:  # under load many events share one
            self._millisecond, self._now_text = millisecond, rfc3339_ms(millisecond * 1_000_000)
        return self._now_text


class EventResource:
    """`POST /event`: one event."""

    scope = "ingest"

    def __init__(self, intake: EventIntake, bodies: BodyReader) -> None:
        self._intake = intake
        self._bodies = bodies

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 once the op's line is written."""
        with self._bodies.lease() as lease:
            body = await self._bodies.read(req, lease)
            context, key = _trace_context(req), _idempotency_key(req)
            if len(body) > LARGE_BYTES:
                receipt = await self._intake.record_large(body, context, key)
            else:
                receipt = self._intake.record(body, context, key)
            await self._intake.settled((receipt,))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _accepted(receipt.op, self._intake.ring_size())


class EventsResource:
    """`POST /events`: a JSON array, or one event a line. Good events stay in, whatever the others are."""

    scope = "ingest"

    def __init__(self, intake: EventIntake, bodies: BodyReader) -> None:
        self._intake = intake
        self._bodies = bodies

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 with what was accepted and what was rejected, by index, once the good lines are written."""
        with self._bodies.lease() as lease:
            events = _events(await self._bodies.read(req, lease))
            _bound("events", len(events), MAX_BATCH_EVENTS)
            receipts, rejected = await self._record(events, _trace_context(req))
            await self._intake.settled(receipts)
        resp.content_type = falcon.MEDIA_JSON
        resp.data = msgspec.json.encode(
            {"accepted": len(receipts), "rejected": rejected, "ring_size": self._intake.ring_size()}
        )

    async def _record(
        self, events: list[Any], headers: dict[str, str]
    ) -> tuple[list[Receipt], list[dict[str, int | str]]]:
        receipts: list[Receipt] = []
        rejected: list[dict[str, int | str]] = []
        time = asyncio.get_running_loop().time
        turn_began = time()
        for index, event in enumerate(events):
            try:
                if _size(event) > LARGE_BYTES:
                    receipts.append(await self._intake.record_large(event, headers))
                else:
                    receipts.append(self._intake.record(event, headers))
            except InvalidInputError as exc:
                rejected.append({"index": index, "error": str(exc)})
            except RetryableError as exc:
                # What came before is kept: say how far it went, so that the sender need not repeat that.
                rejected += [{"index": rest, "error": f"retry: {exc}"} for rest in range(index, len(events))]
                if not receipts:
                    raise
                break
            taken = int((time() - turn_began) / _TURN_S)  # not a count of events: they differ too much in size
            if taken:
                for _ in range(min(taken, _MOST_TURNS)):
                    await asyncio.sleep(0)
                turn_began = time()
        return receipts, rejected


def _accepted(op: ObservedOp, ring_size: int) -> bytes:
    """The answer for *op*; of a repeated event whose first was long ago the ids of the span are not known."""
    if not op.trace_id or not op.span_id:
        return b'{"accepted":true,"ring_size":%d}' % ring_size
    return b'{"accepted":true,"ring_size":%d,"trace_id":"%b","span_id":"%b"}' % (
        ring_size,
        op.trace_id.encode(),
        op.span_id.encode(),
    )


def _events(body: bytes) -> list[Any]:
    """The events of a batch, each JSON text still, or already read. Raises MalformedError, TooLargeError.

    What is made of the body must stay within bounds as the body does: ten million `1,` would become 700 MiB.
    """
    if not body.strip():
        raise MalformedError("the body is empty", "there is nothing to read", "Send an array, or one event a line")
    is_array = body.lstrip()[:1] == b"["
    _bound("values", body.count(b"," if is_array else b"\n"), MAX_BATCH_VALUES)
    if not is_array:
        return [line for line in body.split(b"\n") if line.strip()]
    try:
        return _raw_array.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _bound("objects and arrays", body.count(b"{") + body.count(b"["), 4 * MAX_BATCH_EVENTS)
        events: list[Any] = parse_json(body)  # it reads what the fast decoder refuses, lone surrogates for one
        return events


def _bound(what: str, count: int, most: int) -> None:
    if count > most:
        raise TooLargeError(f"{count} {what} in one request", f"at most {most} are read", "Send fewer at a time")


def _size(event: object) -> int:
    """The bytes of *event*'s text; 0 where it was read already. Raises TooLargeError if `/event` would not take it."""
    size = len(memoryview(event)) if isinstance(event, _TEXT) else 0
    if size > MAX_EVENT_BYTES:
        raise TooLargeError(
            f"the event is over {MAX_EVENT_BYTES} bytes", "one event is no larger in a batch", "Send less in it"
        )
    return size


def _idempotency_key(req: falcon.asgi.Request) -> str:
    """The header's value, without the quotes that the IETF draft puts round it."""
    key = req.headers.get("idempotency-key", "")
    return key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key


def _trace_context(req: falcon.asgi.Request) -> dict[str, str]:
    traceparent = req.headers.get("traceparent")
    return {"traceparent": traceparent, "tracestate": req.headers.get("tracestate", "")} if traceparent else {}
