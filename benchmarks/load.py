"""The load generator: a process of its own that keeps a number of connections busy, each with one request at a time.

`python -m benchmarks.load JSON` takes a `Load` and prints a `LoadResult`, both JSON. Requests are prebuilt bytes, and
responses are parsed by Content-Length alone, so that it needs less CPU than the server it measures.
"""

from __future__ import annotations

import asyncio
import gc
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import cast

import msgspec
import uvloop

from benchmarks.events import Kind, bodies

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_DRAIN_S = 30.0


class UnreadableAnswerError(Exception):
    """A response without a Content-Length, or not HTTP at all."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """POST *path* on *connections* for *seconds*; one more connection GETs *probe*, if given, each *probe_every_s*."""

    port: int
    path: str
    body: Kind
    connections: int
    seconds: float
    probe: str = ""
    probe_every_s: float = 0.02


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """The responses within the time. Latencies in ms; *not_200* counts other responses by status.

    *lost* connections were closed by the server or not answered in the end. *busy* is the generator's own share of a
    core: near 1 the generator is the limit, not the server.
    """

    requests: int
    elapsed_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    not_200: dict[str, int]
    lost: int
    busy: float
    probe_ms: list[float] = []


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of *ordered* (ascending); 0 if empty."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def answer_size(data: bytes) -> int | None:
    """Size of the response at the start of *data*; None while its head is incomplete. Raises UnreadableAnswerError."""
    head = data.find(b"\r\n\r\n")
    if head < 0:
        return None
    length = _LENGTH.search(data, 0, head)
    if length is None or not data.startswith(b"HTTP/1.1 "):
        raise UnreadableAnswerError(data[:80])
    return head + 4 + int(length[1])


class Tally:
    """Counts and latencies of one group of connections, while *running*."""

    def __init__(self) -> None:
        self.running = False
        self.latencies_ns: list[int] = []
        self.not_200: Counter[str] = Counter()
        self.lost = 0

    def add(self, status: bytes, latency_ns: int) -> None:
        """Count one complete response."""
        self.latencies_ns.append(latency_ns)
        if status != b"200":
            self.not_200[status.decode("latin-1")] += 1


class Connection(asyncio.Protocol):
    """Sends one request at a time, in turn from *requests*, with a pause of *pause_s* after each response."""

    def __init__(self, requests: Sequence[bytes], first: int, tally: Tally, pause_s: float = 0.0) -> None:
        self._requests = requests
        self._next = first % len(requests)
        self._tally = tally
        self._pause_s = pause_s
        self._pending = b""
        self._sent_ns = 0
        self._transport: asyncio.Transport | None = None
        self.idle = asyncio.Event()
        self.idle.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport; `send` starts the requests."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def send(self) -> None:
        """Send the next request, unless the time is over."""
        if self._transport is None or not self._tally.running:
            return
        request = self._requests[self._next]
        self._next = (self._next + 1) % len(self._requests)
        self.idle.clear()
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect one response, count it, send the next request."""
        if self._pending:
            data = self._pending + data
        try:
            size = answer_size(data)
        except UnreadableAnswerError:
            self._give_up()
            return
        if size is None or len(data) < size:
            self._pending = data
            return
        self._pending = b""  # nothing can follow: the next request is not sent yet
        if self._tally.running:
            self._tally.add(data[9:12], time.perf_counter_ns() - self._sent_ns)
        self._go_on()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Count a connection that was closed by the server."""
        if self._transport is not None:
            self._transport = None
            self._tally.lost += 1
            self.idle.set()

    def close(self) -> None:
        """Close the connection from this side."""
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.close()

    def _go_on(self) -> None:
        if self._pause_s and self._tally.running:
            asyncio.get_running_loop().call_later(self._pause_s, self.send)
            self.idle.set()
        elif self._tally.running:
            self.send()
        else:
            self.idle.set()

    def _give_up(self) -> None:
        self._tally.lost += 1
        self.close()
        self.idle.set()


async def run(load: Load) -> LoadResult:
    """Connect, run the load for the given time, wait for responses under way (not counted), and return the result."""
    answers, probes = Tally(), Tally()
    posts = [_post(load.path, body) for body in bodies(load.body)]
    connections = [await _open(load.port, Connection(posts, 7 * n, answers)) for n in range(load.connections)]
    if load.probe:
        connections.append(await _open(load.port, Connection([_get(load.probe)], 0, probes, load.probe_every_s)))
    answers.running = probes.running = True
    began, cpu = time.perf_counter(), time.process_time()
    for connection in connections:
        connection.send()
    await asyncio.sleep(load.seconds)
    answers.running = probes.running = False
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    await _drain(connections, answers)
    latencies = sorted(answers.latencies_ns)
    return LoadResult(
        requests=len(latencies),
        elapsed_s=elapsed,
        p50_ms=percentile(latencies, 0.50) / 1e6,
        p99_ms=percentile(latencies, 0.99) / 1e6,
        max_ms=percentile(latencies, 1.0) / 1e6,
        not_200=dict(answers.not_200 + probes.not_200),
        lost=answers.lost + probes.lost,
        busy=cpu / elapsed,
        probe_ms=[latency / 1e6 for latency in probes.latencies_ns],
    )


async def _open(port: int, connection: Connection) -> Connection:
    await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", port)
    return connection


async def _drain(connections: Sequence[Connection], tally: Tally) -> None:
    """Wait until the server is idle, before another one is measured."""
    waits = [asyncio.create_task(connection.idle.wait()) for connection in connections]
    _, late = await asyncio.wait(waits, timeout=_DRAIN_S)
    tally.lost += len(late)
    for wait in late:
        wait.cancel()
    for connection in connections:
        connection.close()


def _post(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        path.encode(),
        len(body),
        body,
    )


def _get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode()


def main(text: str) -> None:
    """Run the load that *text* describes and print its result."""
    load = msgspec.json.decode(text, type=Load)
    gc.disable()  # nothing to collect in a few seconds, and a pause would count as the server's
    print(msgspec.json.encode(uvloop.run(run(load))).decode())


if __name__ == "__main__":
    main(sys.argv[1])
