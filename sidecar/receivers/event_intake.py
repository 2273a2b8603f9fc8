"""Takes events for all their doors: one event → op → span → receipt."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from sidecar.clock import rfc3339_ms
from sidecar.errors import ConflictError, InvalidInputError, MalformedError, OverloadedError
from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.protocols import Clock, Receipt, Recorder, SentOnce
from sidecar.receivers.bodies import parse_json
from sidecar.receivers.event_fields import event_op
from sidecar.receivers.event_hints import ERROR_OF_SUCCESS, MAX_HINTS, NO_ENDPOINT, FieldHints, with_outcome_hint

LARGE_BYTES = 32 * 1024  # bytes; reading and masking a larger event would block others for more than a few milliseconds

_SEVERAL: Final = (
    "Send them to POST /events, each on a line of its own; with curl use --data-binary, as -d removes line ends"
)

TEXT = (bytes, msgspec.Raw)
"""Types of undecoded JSON text; any other value is decoded already."""


class Repeat:
    """The receipt of a repeated event: that of the first attempt."""

    def __init__(self, first: Receipt) -> None:
        self._first = first
        self.op = first.op

    async def wait(self) -> None:
        """See `Receipt`."""
        await self._first.wait()

    @property
    def taken(self) -> bool | None:
        """See `Receipt`."""
        return self._first.taken


class Reading(msgspec.Struct, frozen=True, gc=False):
    """The op of an event, whether the event had a timestamp, and hints on what the sender may have meant otherwise."""

    op: ObservedOp
    stamped: bool
    hints: tuple[str, ...] = ()


class EventIntake:
    """Takes events for all doors: one event → op → span → receipt. Counts accepted and refused ones."""

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
        self._hints = FieldHints()
        self.hinted = 0  # events whose answer had hints
        self.accepted = 0
        self.invalid = 0
        self.repeats = 0
        self.conflicts = 0

    def record(self, event: object, headers: dict[str, str], idempotency_key: str = "") -> Receipt:
        """Read and take *event*, JSON text or decoded. Returns its receipt; see `read` and `take`."""
        return self.take(self.read(event, idempotency_key), headers)

    async def record_large(self, event: object, headers: dict[str, str], idempotency_key: str = "") -> Receipt:
        """Like `record`, for an event of more than `LARGE_BYTES`."""
        return self.take(await self.read_large(event, idempotency_key), headers)

    def read(self, event: object, idempotency_key: str = "") -> Reading:
        """Read *event* into an op. *idempotency_key* is its id if it has none. Raises InvalidInputError."""
        try:
            return self._read(event, idempotency_key, self._now())
        except InvalidInputError:
            self.invalid += 1
            raise

    async def read_large(self, event: object, idempotency_key: str = "") -> Reading:
        """Like `read`, for an event of more than `LARGE_BYTES`: in a thread, one at a time."""
        async with self._large:
            try:
                return await asyncio.to_thread(self._read, event, idempotency_key, self._now())
            except InvalidInputError:
                self.invalid += 1
                raise

    def take(self, reading: Reading, headers: dict[str, str]) -> Receipt:
        """Record an event that was read. Returns its receipt; *headers* may hold W3C trace context.

        A repeated event is not recorded; its receipt is a `Repeat`. Raises ConflictError if another event has its id,
        OverloadedError if there is no room.
        """
        op = reading.op
        if reading.hints:
            self.hinted += 1
        if not op.event_id:
            return self._recorded(op, headers)
        try:
            receipt, first = self._sent_once.once(op, reading.stamped, lambda: self._recorded(op, headers))
        except ConflictError:
            self.conflicts += 1
            raise
        if first:
            return receipt
        self.repeats += 1
        return Repeat(receipt)

    @property
    def hint_stats(self) -> dict[str, int]:
        """For `/stats`: events whose answer had hints, and unknown fields of which nobody knows what they resemble."""
        return {"events": self.hinted, "fields_not_compared": self._hints.not_compared}

    def _read(self, event: object, idempotency_key: str, now: str) -> Reading:
        """Read *event*. Thread-safe: the only state is the hints' names."""
        raw = _parsed(event) if isinstance(event, TEXT) else event
        if idempotency_key and isinstance(raw, dict) and raw.get("event_id") in (None, ""):
            raw["event_id"] = idempotency_key
        op = event_op(raw, now, self._normalizer)
        if not isinstance(raw, dict):
            return Reading(op, stamped=False)
        hints = self._hints.of(op.extra, raw) if op.extra else ()
        if not op.endpoint:
            hints = (*hints[: MAX_HINTS - 1], NO_ENDPOINT)
        if raw.get("success") is None:
            hints = with_outcome_hint(hints, raw)
        elif op.success and op.error:
            hints = (*hints[: MAX_HINTS - 1], ERROR_OF_SUCCESS)
        return Reading(op, raw.get("timestamp") is not None, hints)

    async def settled(self, receipts: Sequence[Receipt]) -> None:
        """Wait for all receipts, and count the accepted events. Raises JournalError if one failed."""
        try:
            for receipt in receipts:
                if not receipt.taken:  # most are of one batch, which settles as a whole
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
        if millisecond != self._millisecond:  # under load many events share a millisecond
            self._millisecond, self._now_text = millisecond, rfc3339_ms(millisecond * 1_000_000)
        return self._now_text


def _parsed(event: bytes | msgspec.Raw) -> Any:
    """The event as plain objects. Raises MalformedError, which tells several objects from something that is no JSON."""
    try:
        return parse_json(event)
    except MalformedError as exc:
        cause = exc.__cause__
        if isinstance(cause, json.JSONDecodeError) and cause.msg == "Extra data" and cause.doc[cause.pos] == "{":
            raise MalformedError(
                "several objects are where one was expected", f"the second begins at character {cause.pos}", _SEVERAL
            ) from exc
        raise
