"""`POST /event` and `POST /events`: events become spans, and are acknowledged once they are in the journal."""

from __future__ import annotations

import asyncio
from typing import Any

import falcon
import falcon.asgi
import msgspec

from sidecar.errors import InvalidInputError, MalformedError, RetryableError, TooLargeError
from sidecar.model import ObservedOp
from sidecar.protocols import Receipt
from sidecar.receivers.bodies import BodyReader, parse_json
from sidecar.receivers.event_hints import MAX_HINTS
from sidecar.receivers.event_intake import LARGE_BYTES, TEXT, EventIntake, Reading

MAX_EVENT_BYTES = 2**20
MAX_BATCH_BYTES = 20 * 2**20
MAX_BATCH_EVENTS = 50_000
MAX_BATCH_VALUES = 1_000_000  # commas of an array, lines of NDJSON
_TURN_S = 0.005  # of handling events before other tasks get a turn
_TOGETHER = 32  # events that are read before they are taken
_MOST_TURNS = 10  # for the others, after events that took long: an answer takes several

_raw_array = msgspec.json.Decoder(list[msgspec.Raw])


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
                reading = await self._intake.read_large(body, key)
            else:
                reading = self._intake.read(body, key)
            receipt = self._intake.take(reading, context)
            await self._intake.settled((receipt,))
        resp.content_type = falcon.MEDIA_JSON
        resp.data = _accepted(receipt.op, self._intake.ring_size(), reading.hints)


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
            hints: dict[str, int] = {}
            receipts, rejected = await self._record(events, _trace_context(req), hints)
            await self._intake.settled(receipts)
        resp.content_type = falcon.MEDIA_JSON
        answer = {"accepted": len(receipts), "rejected": rejected, "ring_size": self._intake.ring_size()}
        if hints:
            answer["hints"] = [{"index": index, "hint": hint} for hint, index in hints.items()]
        resp.data = msgspec.json.encode(answer)

    async def _record(
        self, events: list[Any], headers: dict[str, str], hints: dict[str, int]
    ) -> tuple[list[Receipt], list[dict[str, int | str]]]:
        """Receipts, and what was rejected; into *hints* goes each hint, with the first event that it is about."""
        receipts: list[Receipt] = []
        rejected: list[dict[str, int | str]] = []
        time = asyncio.get_running_loop().time
        while (first := len(receipts) + len(rejected)) < len(events):
            turn_began = time()
            for index, reading in enumerate(await self._some(events, first, turn_began + _TURN_S), first):
                try:
                    if isinstance(reading, InvalidInputError):
                        raise reading
                    receipts.append(self._intake.take(reading, headers))
                    for hint in reading.hints:
                        if len(hints) < MAX_HINTS:
                            hints.setdefault(hint, index)
                except InvalidInputError as exc:
                    rejected.append({"index": index, "error": str(exc)})
                except RetryableError as exc:
                    # What came before is kept: say how far it went, so that the sender need not repeat that.
                    rejected += [{"index": rest, "error": f"retry: {exc}"} for rest in range(index, len(events))]
                    if not receipts:
                        raise
                    return receipts, rejected
            taken = int((time() - turn_began) / _TURN_S)  # not a count of events: they differ too much in size
            for _ in range(min(taken, _MOST_TURNS)):
                await asyncio.sleep(0)
        return receipts, rejected

    async def _some(self, events: list[Any], first: int, until: float) -> list[Reading | InvalidInputError]:
        """What the next events say, at least one: all of them are read before the first is taken.

        So code that reads stays in the processor's caches, which saves a twentieth of an event's whole cost.
        """
        time = asyncio.get_running_loop().time
        some: list[Reading | InvalidInputError] = []
        for event in events[first : first + _TOGETHER]:
            try:
                if _size(event) > LARGE_BYTES:
                    if some:
                        break
                    return [await self._intake.read_large(event)]
                some.append(self._intake.read(event))
            except InvalidInputError as exc:
                some.append(exc)
            if time() > until:
                break
        return some


def _accepted(op: ObservedOp, ring_size: int, hints: tuple[str, ...]) -> bytes:
    """The answer for *op*; of a repeated event whose first was long ago the ids of the span are not known."""
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
    size = len(memoryview(event)) if isinstance(event, TEXT) else 0
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
