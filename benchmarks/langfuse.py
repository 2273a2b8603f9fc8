"""`python -m benchmarks.langfuse`: spans a second through Langfuse's OTLP door against `/v1/traces`, in pairs.

Both doors of one observer get the same spans, those of a recorded run of Langfuse's Python SDK 5 with fresh ids, one
door after the other in each round, so that other load on the machine affects both. Measured twice: without forwarding,
and with forwarding to a collector and a Langfuse server that are both down, so that everything goes to disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console
from rich.table import Table

from benchmarks.servers import ROOT, BenchmarkError, Server, cpu_s, observer_program, split_cores, usable_cores
from sidecar.receivers.otlp_json import protobuf_request
from sidecar.receivers.otlp_wire import Rejected

RECORDED = ROOT / "tests" / "data" / "otlp" / "langfuse-5.0.4.json"
DOORS = ("/v1/traces", "/api/public/otel/v1/traces")
_AWAY = "http://127.0.0.1:9"
_HTTP_ONLY = {"OBSERVER_GRPC_PORT": "-1", "OBSERVER_PROXY_PORT": "-1"}
_TEE = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": _AWAY,
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "LANGFUSE_FORWARD_URL": _AWAY,
    "LANGFUSE_FORWARD_PUBLIC_KEY": "pk",
    "LANGFUSE_FORWARD_SECRET_KEY": "sk",
}
_CONNECTIONS = 4
_LEAST_RATIO = 0.8
_LEAST = 512  # spans per request, at least


class Sample(NamedTuple):
    """One door in one round. The observer's CPU time hardly depends on other load on the machine."""

    spans_per_s: float
    cpu_us: float


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Measure and print; returns 1 if the Langfuse door is more than a fifth slower than the other."""
    args = _arguments(arguments)
    folder = Path(tempfile.mkdtemp(prefix="langfuse-"))
    table = Table(title=f"spans/s, medians of {args.rounds} rounds of {args.requests} requests")
    for column in ("observer", *DOORS, "ratio (median of pairs)", "CPU µs a span", "ratio"):
        table.add_column(column)
    good = True
    try:
        for name, more in (("alone", {}), ("to collector and Langfuse, both away", _TEE)):
            pairs = measure(args, env, folder / name[:5], more)
            ratio = statistics.median(other.spans_per_s / plain.spans_per_s for plain, other in pairs)
            good &= ratio >= _LEAST_RATIO
            rates = [
                f"{statistics.median(each.spans_per_s for each in door):,.0f}" for door in zip(*pairs, strict=True)
            ]
            costs = [statistics.median(each.cpu_us for each in door) for door in zip(*pairs, strict=True)]
            cost = " / ".join(f"{each:.0f}" for each in costs)
            table.add_row(name, *rates, f"{ratio:.2f}", cost, f"{costs[1] / costs[0]:.2f}")
    except BenchmarkError as exc:
        print(f"benchmarks: {exc}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    return 0 if good else 1


def measure(
    args: argparse.Namespace, env: Mapping[str, str], folder: Path, more: Mapping[str, str]
) -> list[tuple[Sample, Sample]]:
    """A pair of samples for each round, in the order of `DOORS`. Raises BenchmarkError."""
    cores = split_cores(usable_cores())
    bodies = requests()
    pairs: list[tuple[Sample, Sample]] = []
    with Server(observer_program({**_HTTP_ONLY, **more}), folder, env, cores.server) as server:
        for number in range(args.rounds + 1):
            order = DOORS if number % 2 else DOORS[::-1]
            rates = {door: _sample(server, door, list(itertools.islice(bodies, args.requests))) for door in order}
            if number:  # the first round warms up
                pairs.append((rates[DOORS[0]], rates[DOORS[1]]))
    return pairs


def requests() -> Iterator[tuple[bytes, int]]:
    """Endless requests of the recorded spans, at least 512 in each, with fresh ids; and their number of spans."""
    recorded = ExportTraceServiceRequest.FromString(protobuf_request(RECORDED.read_bytes(), Rejected()))
    times = -(-_LEAST // sum(len(scope.spans) for each in recorded.resource_spans for scope in each.scope_spans))
    numbers = itertools.count(1)
    while True:
        whole = ExportTraceServiceRequest()
        count = 0
        for _ in range(times):
            trace_id = next(numbers).to_bytes(16, "big")
            for resource in recorded.resource_spans:
                added = whole.resource_spans.add()
                added.CopyFrom(resource)
                for scope in added.scope_spans:
                    for span in scope.spans:
                        span.trace_id = trace_id
                        count += 1
        yield whole.SerializeToString(), count


def _sample(server: Server, door: str, bodies: Sequence[tuple[bytes, int]]) -> Sample:
    spans = sum(count for _, count in bodies)
    began, used_s = time.perf_counter(), cpu_s(server.pid) or 0.0
    asyncio.run(_send(server.port, door, bodies))
    return Sample(spans / (time.perf_counter() - began), ((cpu_s(server.pid) or 0.0) - used_s) / spans * 1e6)


async def _send(port: int, door: str, bodies: Sequence[tuple[bytes, int]]) -> None:
    waiting = iter(bodies)

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body, _ in waiting:
            head = f"POST {door} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in answer.partition(b"\r\n")[0]:
                raise BenchmarkError(f"{door} answered {answer[:80]!r}")
            await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.close()

    await asyncio.gather(*(one() for _ in range(_CONNECTIONS)))


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=30, help="of each round and door")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:], os.environ))
