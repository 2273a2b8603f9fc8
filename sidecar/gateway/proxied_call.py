"""One call on its way through the proxy, as far as it is observed: times, heads, and the beginnings of its bodies.

The exchange fills it while bytes pass, which costs an addition and a bounded copy; it is read after the last byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.gateway.proxy_head import RequestHead, ResponseHead, header

if TYPE_CHECKING:
    from opentelemetry.trace import Span

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

    def give_back(self, count: int) -> None:
        """*count* bytes are let go."""
        self.used -= count


class Capture:
    """The beginning of a body, and of a long one its end; `size` counts all of it."""

    __slots__ = ("_budget", "_kept", "_parts", "_skip", "size", "tail")

    def __init__(self, budget: CaptureBudget) -> None:
        self._budget = budget
        self._parts: list[bytes] = []
        self._kept = 0
        self._skip = False
        self.size = 0
        self.tail = b""

    def skip(self) -> None:
        """Count only: there is nothing to read in it."""
        self._skip = True

    def add(self, data: bytes) -> None:
        """*data* has passed."""
        count = len(data)
        self.size += count
        if self._skip:
            return
        room = PREFIX_BYTES - self._kept
        if room > 0:
            if count > room:
                self._keep(data[:room])
                self._keep_end(data[room:])
            else:
                self._keep(data)
        else:
            self._keep_end(data)

    @property
    def prefix(self) -> bytes:
        """What was kept of the beginning."""
        return b"".join(self._parts)

    @property
    def whole(self) -> bool:
        """Whether `prefix` is all of it."""
        return self._kept == self.size

    def release(self) -> None:
        """Let go of what was kept."""
        self._budget.give_back(self._kept)
        self._parts, self._kept, self.tail = [], 0, b""

    def _keep(self, data: bytes) -> None:
        if self._budget.take(len(data)):
            self._parts.append(data)
            self._kept += len(data)
        else:
            self._budget.refused += 1
            self._skip = True

    def _keep_end(self, data: bytes) -> None:
        self.tail = data[-TAIL_BYTES:] if len(data) >= TAIL_BYTES else (self.tail + data)[-TAIL_BYTES:]


class ProxiedCall:
    """What is known of one call. *started* and *first_byte* are on the monotonic clock, in seconds."""

    __slots__ = (
        "ended",
        "error",
        "error_type",
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
        self.span: Span | None = None
        self.template = ""

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
