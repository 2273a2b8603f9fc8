"""What the proxy records of one call: times, heads, and the captured beginnings of its bodies.

The exchange fills it while it forwards bytes, at the cost of an addition and a bounded copy. An op is made of it later.
"""

from __future__ import annotations

from sidecar.gateway.proxy_head import RequestHead, ResponseHead, header
from sidecar.protocols import BegunCall

PREFIX_BYTES = 128 * 1024
TAIL_BYTES = 16 * 1024
_READABLE = ("json", "text/", "xml", "urlencoded", "event-stream", "jsonl")


class CaptureBudget:
    """Bounds the bytes that all running calls capture together; beyond it bodies are forwarded uncaptured."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.used = 0
        self.refused = 0  # bodies that the budget cut short

    def take(self, wanted: int) -> bool:
        """Reserve *wanted* bytes; False if that would exceed the budget."""
        if self.used + wanted > self._most:
            return False
        self.used += wanted
        return True

    @property
    def is_short(self) -> bool:
        """Whether more than three quarters of the budget are used."""
        return self.used * 4 > self._most * 3

    def give_back(self, count: int) -> None:
        """Release *count* reserved bytes."""
        self.used -= count


class Capture:
    """Captures the beginning of a body, and the end of a long one; `size` is that of the whole body.

    Each is one contiguous buffer, however small the pieces arrive: the bytes that the budget counts are those used.
    """

    __slots__ = ("_beginning", "_budget", "_end", "_skip", "_taken", "size")

    def __init__(self, budget: CaptureBudget) -> None:
        self._budget = budget
        self._beginning = bytearray()
        self._end: bytearray | None = None  # up to twice TAIL_BYTES, so that not every piece moves it
        self._taken = 0
        self._skip = False
        self.size = 0

    def skip(self) -> None:
        """Capture nothing from now on, only count."""
        self._skip = True

    def add(self, data: bytes) -> None:
        """Count *data*, and capture it where there is room."""
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
        """The captured beginning."""
        return bytes(self._beginning)

    @property
    def tail(self) -> bytes:
        """The captured end, without what is in `prefix`."""
        return bytes(self._end[-TAIL_BYTES:]) if self._end is not None else b""

    @property
    def whole(self) -> bool:
        """Whether `prefix` is the whole body."""
        return len(self._beginning) == self.size

    def release(self) -> None:
        """Free the captured bytes."""
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
    """What is known of one call. `started`, `first_byte` and `ended` are seconds on the monotonic clock."""

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
        self.hung_up = False  # whether the agent disconnected before the answer was complete
        self.span: BegunCall | None = None
        self.template = ""
        self.exposure_id: str | None = None

    def answered(self, response: ResponseHead) -> None:
        """Note the head of the *response*; a body of an unreadable content type is not captured."""
        self.response = response
        kind = header(response.headers, b"content-type").lower()
        if kind and not any(word in kind for word in _READABLE):
            self.response_body.skip()

    def failed(self, error: str, error_type: str) -> None:
        """Note that the call failed, and why; the first reason is kept."""
        if self.error is None:
            self.error, self.error_type = error, error_type

    def release(self) -> None:
        """Free the captured bodies."""
        self.request_body.release()
        self.response_body.release()
