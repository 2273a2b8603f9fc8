"""One call on its way through the proxy, as far as it is observed: times, heads, and the beginnings of its bodies.

The exchange fills it while bytes pass, which costs an addition and a bounded copy; it is read after the last byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.gateway.proxy_head import RequestHead, ResponseHead, header

if TYPE_CHECKING:
    from sidecar.protocols import BegunCall

PREFIX_BYTES = 128 * 1024
TAIL_BYTES = 16 * 1024
_READABLE = ("json", "text/", "xml", "urlencoded", "event-stream", "jsonl")


class CaptureBudget:
    """Bytes that all calls under way may hold for their summaries; beyond it bodies pass unread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        self.refused = 0  # bodies of which something was not kept

    def take(self, wanted: int) -> bool:
        """Whether *wanted* bytes may be kept; they are then counted."""
        if self.used + wanted > self._most:
            return False
        self.used += wanted
        return True

    @property
    def is_short(self) -> bool:
        """Whether more than three quarters of it are taken."""
        return self.used * 4 > self._most * 3

    def give_back(self, count: int) -> None:
        """*count* bytes are let go."""
        self.used -= count


class Capture:
    """The beginning of a body, and of a long one its end; `size` counts all of it.

    Kept as one piece each, however small the pieces come: what the budget counts is what it takes.
    """

    __slots__ = ("_beginning", "_budget", "_end", "_skip", "_taken", "size")

    def __init__(self, budget: CaptureBudget) -> None:
        self._budget = budget
        self._beginning = bytearray()
        self._end: bytearray | None = None  # twice its size, so that it is not moved with every piece
        self._taken = 0
        self._skip = False
        self.size = 0

    def skip(self) -> None:
        """Count only: there is nothing to read in it."""
        self._skip = True

    def add(self, data: bytes) -> None:
        """*data* has passed."""
        self.size += len(data)
        if self._skip:
            return
        room = PREFIX_BYTES - len(self._beginning)
        if room >= len(data):
            self._keep(data)
            return
        if room:
            self._keep(data[:room])
        self._keep_end(data[room:])

    @property
    def prefix(self) -> bytes:
        """What was kept of the beginning."""
        return bytes(self._beginning)

    @property
    def tail(self) -> bytes:
        """What was kept of the end, behind the beginning."""
        return bytes(self._end[-TAIL_BYTES:]) if self._end is not None else b""

    @property
    def whole(self) -> bool:
        """Whether `prefix` is all of it."""
        return len(self._beginning) == self.size

    def release(self) -> None:
        """Let go of what was kept."""
        self._budget.give_back(self._taken)
        self._beginning, self._end, self._taken, self._skip = bytearray(), None, 0, True

    def _take(self, count: int) -> bool:
        if self._budget.take(count):
            self._taken += count
            return True
        self._budget.refused += 1
        self._skip = True
        return False

    def _keep(self, data: bytes) -> None:
        if self._take(len(data)):
            self._beginning += data

    def _keep_end(self, data: bytes) -> None:
        if self._skip or (self._end is None and not self._take(2 * TAIL_BYTES)):
            return
        end = self._end = self._end if self._end is not None else bytearray()
        if len(end) + len(data) > 2 * TAIL_BYTES:
            del end[:-TAIL_BYTES]
            data = data[-TAIL_BYTES:]
        end += data


class ProxiedCall:
    """What is known of one call. *started* and *first_byte* are on the monotonic clock, in seconds."""

    __slots__ = (
        "ended",
        "error",
        "error_type",
        "exposure_id",
        "first_byte",
        "hung_up",
        "request",
        "request_body",
        "response",
        "response_body",
        "span",
        "started",
        "started_ns",
        "template",
    )

    def __init__(self, request: RequestHead, budget: CaptureBudget, started_ns: int, started: float) -> None:
        self.request = request
        self.started_ns = started_ns
        self.started = started
        self.ended = started
        self.first_byte: float | None = None
        self.response: ResponseHead | None = None
        self.request_body = Capture(budget)
        self.response_body = Capture(budget)
        self.error: str | None = None
        self.error_type: str | None = None
        self.hung_up = False  # the agent did, before the answer had gone through
        self.span: BegunCall | None = None
        self.template = ""
        self.exposure_id: str | None = None

    def answered(self, response: ResponseHead) -> None:
        """The gateway's *response* head has come."""
        self.response = response
        kind = header(response.headers, b"content-type").lower()
        if kind and not any(word in kind for word in _READABLE):
            self.response_body.skip()

    def failed(self, error: str, error_type: str) -> None:
        """No answer, or not all of it; the first reason stays."""
        if self.error is None:
            self.error, self.error_type = error, error_type

    def release(self) -> None:
        """Let go of the bodies' beginnings."""
        self.request_body.release()
        self.response_body.release()
