"""Deduplicates events by id: the id is known from the journal, or its first attempt is still in flight.

Ops arrive from the journal as they settle, and at start from the checkpoint and the journal after it, so an id is
known exactly when its line is in the file. Until then a retry gets the receipt of the first attempt.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec

from sidecar.errors import ConflictError
from sidecar.ids import made_ms
from sidecar.model import ObservedOp
from sidecar.protocols import Clock, Receipt
from sidecar.redaction import MASK
from sidecar.store.seen_ids import REF_BYTES, Seen, SeenIds

_NOT_PAYLOAD = {"timestamp", "v", "op_id", "trace_id", "span_id", "parent_span_id", "event_id"}
_payload_values = attrgetter(*(name for name in ObservedOp.__struct_fields__ if name not in _NOT_PAYLOAD))
_encode = msgspec.json.Encoder(order="deterministic").encode  # the order of a map's keys is not part of the payload
_NO_REF = bytes(REF_BYTES)
_SECOND_NS = 1_000_000_000
_SHOWN = 80
ANY: Final = 0
"""Stored instead of a payload hash: payloads are not compared."""


class _Attempt(NamedTuple):
    event_id: str
    key: int
    sent: ObservedOp
    receipt: Receipt


class _Known:
    """The receipt of an op already in the journal; *op* has the first op's trace and span ids, if known."""

    taken = True

    def __init__(self, op: ObservedOp) -> None:
        self.op = op

    async def wait(self) -> None:
        """Return at once: the op is on disk."""


class Duplicates:
    """Finds events that were sent before. Used on the event loop; its table is saved with the checkpoint.

    Payloads are compared as 32-bit hashes of the normalised op without `op_id`, trace ids and `timestamp`. If a retry
    has a timestamp, it must be the first one's; a retry without matches any. An op that amends others may hold more in
    the journal than its event said (`spans.same_operation`), so it is matched by id alone.
    """

    def __init__(self, clock: Clock, ids: SeenIds | None = None) -> None:
        self._clock = clock
        self._ids = SeenIds() if ids is None else ids
        self._attempts: dict[str, _Attempt] = {}
        self._order: deque[_Attempt] = deque()  # attempts settle in the order in which they began

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def unusable(self) -> int:
        """Saved rows that could not be read back."""
        return self._ids.unusable

    def once(self, op: ObservedOp, stamped: bool, record: Callable[[], Receipt]) -> tuple[Receipt, bool]:
        """The receipt of *op*, and whether it is the first with its `event_id`; *record* is called only if it is.

        *stamped*: the sender gave the timestamp. Raises ConflictError if the id is known with another payload.
        """
        event_id = op.event_id or ""
        if MASK in event_id:  # different ids look the same once masked
            return record(), True
        self.settle()
        attempt = self._attempts.get(event_id)
        if attempt is not None:
            first = attempt.sent
            if _payload(first) != _payload(op) or (stamped and first.timestamp != op.timestamp):
                raise _conflict(event_id)
            return attempt.receipt, False
        key = _key(event_id)
        known = self._ids.find(key, self._clock.time_ns() // _SECOND_NS)
        if known is not None:
            if known.payload != ANY and (known.payload != _payload(op) or (stamped and known.stamp != _stamp(op))):
                raise _conflict(event_id)
            return _known(op, known), False
        attempt = self._attempts[event_id] = _Attempt(event_id, key, op, record())
        self._order.append(attempt)
        return attempt.receipt, True

    def knows(self, event_id: str) -> bool:
        """Whether an op with that id is in the journal, as far back as ids are remembered."""
        return self._ids.find(_key(event_id), self._clock.time_ns() // _SECOND_NS) is not None

    def settle(self) -> None:
        """Drop attempts that have settled, and free the ids of those that failed."""
        order = self._order
        while order and (taken := order[0].receipt.taken) is not None:
            attempt = order.popleft()
            del self._attempts[attempt.event_id]
            if not taken:  # it may be in the file, unsynced; but its sender was refused, and may retry
                self._ids.discard(attempt.key)

    def consume(self, op: ObservedOp) -> None:
        """Record the id of one op that is in the journal; the first op with an id counts."""
        if not op.event_id or MASK in op.event_id:
            return
        # The time is when the op was taken, not when it settled or is replayed: a replay must build the same table.
        now_s = self._clock.time_ns() // _SECOND_NS
        taken_s = min(_arrived_s(op, now_s), now_s)
        attempt = self._attempts.get(op.event_id)
        if attempt is not None and attempt.receipt.op is op:
            self._ids.add(attempt.key, _kept_payload(op), _stamp(op), _ref(op), taken_s)
            return
        key = _key(op.event_id)
        if self._ids.find(key, taken_s) is None:
            self._ids.add(key, _kept_payload(op), _stamp(op), _ref(op), taken_s)

    def load(self, rows: Mapping[str, bytes]) -> None:
        """Restore the rows of a checkpoint."""
        self._ids.load(rows)

    def prepare(self) -> Iterator[None]:
        """Does nothing: blocks are copied, not encoded."""
        return iter(())

    def take_dirty(self) -> dict[str, bytes]:
        """The rows changed since the last call."""
        return self._ids.take_dirty()

    def put_back(self, keys: Iterable[str]) -> None:
        """Saving these rows failed: mark them dirty again."""
        self._ids.put_back(keys)


def _key(event_id: str) -> int:
    """A 64-bit hash, equal in every process, as it is saved."""
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little")


def _payload(op: ObservedOp) -> int:
    return zlib.crc32(_encode(_payload_values(op)))


def _kept_payload(op: ObservedOp) -> int:
    return _payload(op) if op.amends is None else ANY


def _stamp(op: ObservedOp) -> int:
    return zlib.crc32(op.timestamp.encode())


def _ref(op: ObservedOp) -> bytes:
    try:
        ref = bytes.fromhex((op.trace_id or "") + (op.span_id or ""))
    except ValueError:
        return _NO_REF
    return ref if len(ref) == REF_BYTES else _NO_REF


def _known(op: ObservedOp, seen: Seen) -> _Known:
    ref = seen.ref.hex() if seen.ref != _NO_REF else ""
    return _Known(msgspec.structs.replace(op, trace_id=ref[:32] or None, span_id=ref[32:] or None))


def _arrived_s(op: ObservedOp, otherwise: int) -> int:
    """When *op* was taken, in seconds, from its op id: a sender's timestamp may be arbitrary."""
    return made_ms(op.op_id) // 1000 or otherwise


def _conflict(event_id: str) -> ConflictError:
    shown = event_id if len(event_id) <= _SHOWN else f"{event_id[: _SHOWN // 2]}… ({len(event_id)} characters)"
    return ConflictError(
        f"the event id {shown!r} is known with another payload",
        "each id names one event, and the first one with it is kept",
        "Repeat an event unchanged, or give a new one an id of its own",
    )
