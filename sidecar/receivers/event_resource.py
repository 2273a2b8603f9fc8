"""`POST /event` and `POST /events`: events become spans, and are acknowledged once they are in the journal."""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8
from dataclasses import dataclass, field
from typing import Any

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError, MalformedError, RetryableError, TooLargeError
from sidecar.model import ObservedOp
from sidecar.protocols import Receipt
from sidecar.receivers.bodies import BodyReader, parse_json
from sidecar.receivers.event_fields import FIELD_SCHEMAS
from sidecar.receivers.event_hints import MAX_HINTS
from sidecar.receivers.event_intake import LARGE_BYTES, TEXT, EventIntake, Reading
from sidecar.receivers.open_ops import OpenBatch, OpenOps

MAX_EVENT_BYTES = 2**20
MAX_BATCH_BYTES = 20 * 2**20
MAX_BATCH_EVENTS = 50_000
MAX_BATCH_VALUES = 1_000_000  # commas of an array
_MOST_LINES = 2 * MAX_BATCH_EVENTS  # with blank ones between events
_EVENT_BYTES = 72  # of an undecoded event, beside its text
_TURN_S = 0.003  # of handling events before other tasks get a turn
_TOGETHER = 32  # events read in a row before they are taken
_MOST_TURNS = 10  # turns for other tasks after a long one, as their responses need several

_raw = msgspec.json.Decoder(msgspec.Raw)
_raw_array = msgspec.json.Decoder(list[msgspec.Raw])
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class EventResource:
    """`POST /event`: one event."""

    scope = "ingest"

    def __init__(self, intake: EventIntake, bodies: BodyReader) -> None:
        self._intake = intake
        self._bodies = bodies

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 once the op is in the journal."""
        with self._bodies.lease() as lease:
            body = await self._bodies.read(req, lease)
            context, key = _trace_context(req), _idempotency_key(req)
            if len(body) > LARGE_BYTES:
                reading = await self._intake.read_large(body, key)
            else:
                reading = self._intake.read(body, key)
            receipt = self._intake.take(reading, context)
            await self._intake.settled((receipt,))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _accepted(receipt.op, self._intake.ring_size(), reading.hints)


@dataclass(slots=True)
class _Batch:
    """What became of a request's events so far: *receipts* of those not settled yet, rejections, and hints.

    *context* is the request's trace context. Each hint comes with the index of its first event.
    """

    held: OpenBatch
    context: dict[str, str]
    accepted: int = 0
    receipts: list[Receipt] = field(default_factory=list)
    rejected: list[dict[str, int | str]] = field(default_factory=list)
    hints: dict[str, int] = field(default_factory=dict)

    @property
    def handled(self) -> int:
        """The number of events taken or rejected."""
        return self.accepted + len(self.rejected)


class EventsResource:
    """`POST /events`: a JSON array, or one event per line. Valid events are recorded even if others are not."""

    scope = "ingest"

    def __init__(self, intake: EventIntake, bodies: BodyReader, open_ops: OpenOps) -> None:
        self._intake = intake
        self._bodies = bodies
        self._open = open_ops

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """200 once the valid events are in the journal, with the numbers accepted, and errors by index.

        422 if there is none: a sender that looks at the status alone would think that all were taken.
        """
        with self._bodies.lease() as lease:
            events = _events(await self._bodies.read(req, lease))
            _bound("events", len(events), MAX_BATCH_EVENTS)
            lease.take(len(events) * _EVENT_BYTES)
            with self._open.batch() as held:
                batch = _Batch(held, _trace_context(req))
                await self._record(events, batch)
        resp.content_type = falcon.MEDIA_JSON
        answer: dict[str, Any] = {
            "accepted": batch.accepted,
            "rejected": batch.rejected,
            "ring_size": self._intake.ring_size(),
        }
        if batch.rejected and not batch.accepted:
            resp.status = falcon.HTTP_422
            answer["error"] = f"none of {len(batch.rejected)} events was taken. The first: {batch.rejected[0]['error']}"
        if batch.hints:
            answer["hints"] = [{"index": index, "hint": hint} for hint, index in batch.hints.items()]
        resp.data = msgspec.json.encode(answer)

    async def _record(self, events: list[Any], batch: _Batch) -> None:
        """Record *events* as *batch*, and wait until they are settled. Raises RetryableError if none was taken."""
        turn_began = asyncio.get_running_loop().time()
        while (first := batch.handled) < len(events):
            readings, size = await self._some(events, first, turn_began + _TURN_S)
            batch.held.add(len(readings), size)
            for index, reading in enumerate(readings, first):
                try:
                    self._take(reading, index, batch)
                except RetryableError as exc:
                    # Earlier events stay recorded: say where it stopped, so that the sender need not repeat them.
                    batch.rejected += [{"index": rest, "error": f"retry: {exc}"} for rest in range(index, len(events))]
                    if not batch.accepted:
                        raise
                    break
            if batch.held.is_full:
                await self._settle_half(batch)
            turn_began = await _next_turn(turn_began)
        await self._intake.settled(batch.receipts)

    def _take(self, reading: Reading | InvalidInputError, index: int, batch: _Batch) -> None:
        """Take one event; its receipt or rejection goes to *batch*. Raises RetryableError."""
        if isinstance(reading, InvalidInputError):
            batch.rejected.append({"index": index, "error": str(reading)})
            return
        try:
            batch.receipts.append(self._intake.take(reading, batch.context))
        except InvalidInputError as exc:
            batch.rejected.append({"index": index, "error": str(exc)})
            return
        batch.accepted += 1
        for hint in reading.hints:
            if len(batch.hints) < MAX_HINTS:
                batch.hints.setdefault(hint, index)

    async def _settle_half(self, batch: _Batch) -> None:
        older = batch.receipts[: (len(batch.receipts) + 1) // 2]
        await self._intake.settled(older)
        del batch.receipts[: len(older)]
        batch.held.half_settled()

    async def _some(self, events: list[Any], first: int, until: float) -> tuple[list[Reading | InvalidInputError], int]:
        """Read the next events, at least one, before any of them is taken. Returns them and their size in bytes.

        This keeps the reading code in the CPU caches, which saves a twentieth of an event's total cost.
        """
        time = asyncio.get_running_loop().time
        some: list[Reading | InvalidInputError] = []
        together = 0
        for event in events[first : first + _TOGETHER]:
            try:
                size = _size(event)
                if size > LARGE_BYTES:
                    if some:
                        break
                    return [await self._intake.read_large(event)], size
                some.append(self._intake.read(event))
                together += size
            except InvalidInputError as exc:
                some.append(exc)
            if time() > until:
                break
        return some, together


async def _next_turn(began: float) -> float:
    """Give other tasks their turns, if this one, which *began* then, has lasted. Returns when the current one began."""
    time = asyncio.get_running_loop().time
    taken = int((time() - began) / _TURN_S)  # by time rather than number, as events differ much in size
    if not taken:
        return began
    for _ in range(min(taken, _MOST_TURNS)):
        await asyncio.sleep(0)
    return time()


def _accepted(op: ObservedOp, ring_size: int, hints: tuple[str, ...]) -> bytes:
    """The response for *op*; if it repeats an event of long ago, the span's ids are unknown."""
    told = b',"hints":' + msgspec.json.encode(hints) if hints else b""
    if not op.trace_id or not op.span_id:
        return b'{"accepted":true,"ring_size":%d%b}' % (ring_size, told)
    return b'{"accepted":true,"ring_size":%d,"trace_id":"%b","span_id":"%b"%b}' % (
        ring_size,
        op.trace_id.encode(),
        op.span_id.encode(),
        told,
    )


def _events(body: bytes) -> list[Any]:
    """The events of a batch, still as JSON text, or decoded. Raises InvalidInputError.

    The result must be bounded like the body: ten million `1,` would become 700 MiB of objects.
    """
    body = body.removeprefix(BOM_UTF8)
    if not body.strip():
        raise MalformedError("the body is empty", "there is nothing to read", "Send an array, or one event a line")
    is_array = body.lstrip()[:1] == b"["
    if is_array:
        _bound("values", body.count(b","), MAX_BATCH_VALUES)
    else:
        _bound("lines", body.count(b"\n"), _MOST_LINES)
        return [body] if _is_one_object(body) else [line for line in body.split(b"\n") if line.strip()]
    try:
        return _raw_array.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _bound("objects and arrays", body.count(b"{") + body.count(b"["), 4 * MAX_BATCH_EVENTS)
        events: list[Any] = parse_json(body)  # accepts what the fast decoder rejects, such as lone surrogates
        return events


def _is_one_object(body: bytes) -> bool:
    """Whether *body* is one event, on one line or on several.

    Raises InvalidInputError for an array inside one object, such as `{"events": […]}`: it would count as an event.
    """
    try:
        _raw.decode(body)  # of many lines it reads the first, and builds nothing
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # several lines, or something it rejects
        return False
    if len(body) > MAX_EVENT_BYTES:
        raise TooLargeError(
            f"the body is one object of over {MAX_EVENT_BYTES} bytes",
            "no event may be larger, and events inside an object are not read",
            "Send an array, or one event a line",
        )
    if b"[" in body:
        _refuse_wrapped(body)
    return True


def _refuse_wrapped(body: bytes) -> None:
    try:
        whole = _raw_object.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # not an object
        return
    is_event = not whole.keys().isdisjoint(FIELD_SCHEMAS)
    if not is_event and any(bytes(memoryview(value)[:1]) == b"[" for value in whole.values()):
        raise InvalidInputError(
            "the events are inside an object",
            "it has no field of an event",
            "Send the array itself, or one event a line",
        )


def _bound(what: str, count: int, most: int) -> None:
    if count > most:
        raise TooLargeError(f"{count} {what} in one request", f"at most {most} are read", "Send fewer at a time")


def _size(event: object) -> int:
    """The size of *event*'s text in bytes; 0 if decoded. Raises TooLargeError if `/event` would refuse it."""
    size = len(memoryview(event)) if isinstance(event, TEXT) else 0
    if size > MAX_EVENT_BYTES:
        raise TooLargeError(
            f"the event is over {MAX_EVENT_BYTES} bytes",
            "the bound is the same as for a single event",
            "Make the event smaller",
        )
    return size


def _idempotency_key(req: falcon.asgi.Request) -> str:
    """The header's value, without the quotes that the IETF draft requires."""
    key = req.headers.get("idempotency-key", "")
    return key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key


def _trace_context(req: falcon.asgi.Request) -> dict[str, str]:
    traceparent = req.headers.get("traceparent")
    return {"traceparent": traceparent, "tracestate": req.headers.get("tracestate", "")} if traceparent else {}
