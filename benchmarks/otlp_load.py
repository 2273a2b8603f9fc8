"""The sender: OTLP requests over gRPC, each once, a few at a time; a request that is pushed back is retried later.

`python -m benchmarks.otlp_load JSON` takes an `OtlpLoad`, builds its requests, prints `ready`, waits for a line, sends
all requests, and prints an `OtlpSent`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import msgspec

from benchmarks.load import percentile
from benchmarks.otlp_requests import SPANS, Mix, otlp_requests

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
_PAUSE_S = 0.05
_PATIENCE_S = 60.0


class OtlpLoad(msgspec.Struct, frozen=True, kw_only=True):
    """*requests* of *mix* to *port*, *parallel* at a time. *seed* makes their ids: it must differ between runs."""

    port: int
    mix: Mix
    requests: int
    parallel: int
    seed: int


class OtlpSent(msgspec.Struct, frozen=True, kw_only=True):
    """The acknowledged spans. *began_s* is `time.monotonic` at the start; *pushed_back* counts retries."""

    spans: int
    began_s: float
    elapsed_s: float
    p50_ms: float
    p99_ms: float
    pushed_back: int
    failed: int
    busy: float


class _Sender:
    def __init__(self, load: OtlpLoad, channel: Any) -> None:
        self._requests: Iterator[bytes] = iter(otlp_requests(load.mix, load.requests, load.seed))
        self._call = channel.unary_unary(_METHOD)
        self._lock = threading.Lock()
        self.latencies_ms: list[float] = []
        self.pushed_back = self.failed = 0

    def run(self) -> None:
        """Send requests until none is left."""
        while (request := self._next()) is not None:
            began = time.perf_counter()
            try:
                self._send(request)
            except grpc.RpcError:
                self.failed += 1
                continue
            self.latencies_ms.append((time.perf_counter() - began) * 1000)

    def _next(self) -> bytes | None:
        with self._lock:
            return next(self._requests, None)

    def _send(self, request: bytes) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._call(request, timeout=_PATIENCE_S)
                return
            except grpc.RpcError as exc:
                if exc.code() not in _AGAIN or time.monotonic() > deadline:
                    raise
                self.pushed_back += 1
                time.sleep(_PAUSE_S)


def main(text: str) -> None:
    """Send the load that *text* describes, after a line on standard input."""
    load = msgspec.json.decode(text, type=OtlpLoad)
    with grpc.insecure_channel(f"127.0.0.1:{load.port}", options=[("grpc.max_receive_message_length", -1)]) as channel:
        sender = _Sender(load, channel)
        grpc.channel_ready_future(channel).result(timeout=_PATIENCE_S)
        print("ready", flush=True)
        sys.stdin.readline()
        threads = [threading.Thread(target=sender.run) for _ in range(load.parallel)]
        began, cpu = time.monotonic(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed, cpu = time.monotonic() - began, time.process_time() - cpu
    latencies = sorted(sender.latencies_ms)
    sent = OtlpSent(
        spans=len(latencies) * SPANS,
        began_s=began,
        elapsed_s=elapsed,
        p50_ms=percentile(latencies, 0.5),
        p99_ms=percentile(latencies, 0.99),
        pushed_back=sender.pushed_back,
        failed=sender.failed,
        busy=cpu / elapsed,
    )
    print(msgspec.json.encode(sent).decode(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
