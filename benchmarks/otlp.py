"""`python -m benchmarks.otlp`: what passing OTLP on and learning from it costs, beside the real Collector.

OTLP in → learn → OTLP out, at 512 spans a request, in two mixes (`otlp_requests`); the Collector (OTLP in, batch, OTLP
out; built by `make peers`) with one processor on the same core in the same rounds; events in → OTLP out; and how long
after its acknowledgement a `Watch` shows an op. A run is over when the last span has arrived at the far end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.events import BATCH
from benchmarks.load import Load, LoadResult, percentile
from benchmarks.machine import machine
from benchmarks.otlp_load import OtlpLoad, OtlpSent
from benchmarks.otlp_requests import SERVICE, SPANS, Mix, ops_in
from benchmarks.otlp_sink import Received
from benchmarks.servers import (
    ROOT,
    BenchmarkError,
    Command,
    Cores,
    Program,
    Server,
    cpu_s,
    free_port,
    pinned,
    resident_mib,
    split_cores,
    usable_cores,
)
from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pb.v1.observer_pb2_grpc import ObserverServiceStub
from sidecar.spans.provider import DEFAULT_SERVICE_NAME

_MIXES: tuple[Mix, ...] = ("agent", "ops")
_PARALLEL = 4
_ARRIVAL_S = 120.0
_QUIET_S = 3.0  # nothing has arrived for so long: nothing more will
_LOOK_S = 0.05
_SPARE_S = 120.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One server under one load, a round each. *lost* spans never arrived; *ratio* is against the Collector's rate."""

    server: str
    load: str
    spans_per_s: list[float]
    cpu_us_per_span: list[float]
    busy: list[float]
    lost: int
    repeated: int
    pushed_back: int
    p99_ms: list[float]
    after_mib: float | None
    ratios: list[float] = []


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured. *watch_ms* is from acknowledgement to sight, op by op."""

    machine: Mapping[str, object]
    settings: Mapping[str, object]
    rows: list[Row]
    watch_ms: list[float]


class Sink:
    """The far end, a process of its own on the load's core."""

    def __init__(self, cores: Cores) -> None:
        self.port = free_port()
        with pinned(cores.load):
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.otlp_sink", str(self.port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
                text=True,
            )
        self.ask()

    def ask(self, what: str = "") -> Received:
        """What it has received; from nothing on after `reset SERVICE`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError("the sink has ended")
        return msgspec.json.decode(line, type=Received)

    def arrived(self, spans: int) -> Received:
        """What it has, once *spans* came or nothing comes any more."""
        deadline, seen, since = time.monotonic() + _ARRIVAL_S, -1, time.monotonic()
        while True:
            received = self.ask()
            if received.spans != seen:
                seen, since = received.spans, time.monotonic()
            if received.spans >= spans or time.monotonic() > min(deadline, since + _QUIET_S):
                return received
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Peer:
    """A server under measurement: the process, and where it takes OTLP over gRPC."""

    def __init__(self, server: Server, grpc_port: int) -> None:
        self.server = server
        self.grpc_port = grpc_port


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write the JSON; 1 if a server did not start."""
    args = _arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    args.data_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="otlp-", dir=args.data_dir))
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        report = run(args, folder, console)
    except BenchmarkError as exc:
        console.print(f"benchmarks: {exc}", style="red", markup=False, highlight=False)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    args.output.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    show(report, console)
    console.print(f"written: {args.output}", highlight=False)
    return 0


def run(args: argparse.Namespace, folder: Path, console: Console) -> Report:
    """Start sink and servers, run the loads in interleaved rounds. Raises BenchmarkError."""
    cores = split_cores(usable_cores())
    facts = machine(folder)
    with contextlib.ExitStack() as stack:
        sink = Sink(cores)
        stack.callback(sink.close)
        observer = stack.enter_context(_observer(folder / "observer", sink.port, cores))
        peers = [observer]
        if args.collector is not None:
            peers.append(stack.enter_context(_collector(args.collector, folder / "collector", sink.port, cores)))
        rows = []
        for mix in _MIXES:
            console.print(f"{mix}: {args.requests} requests of {SPANS} spans, {args.rounds} rounds", highlight=False)
            rows += _measured(mix, peers, sink, cores, args)
        rows.append(_events(observer, sink, cores, args))
        watch_ms = asyncio.run(_watched(observer.grpc_port, args.watched))
    settings = {"rounds": args.rounds, "requests": args.requests, "spans_a_request": SPANS, "parallel": _PARALLEL}
    return Report(machine=facts, settings=settings, rows=rows, watch_ms=watch_ms)


def _measured(mix: Mix, peers: Sequence[Peer], sink: Sink, cores: Cores, args: argparse.Namespace) -> list[Row]:
    runs: dict[str, list[_Run]] = {peer.server.name: [] for peer in peers}
    for number in range(args.rounds + 1):
        for peer in peers:
            load = OtlpLoad(
                port=peer.grpc_port,
                mix=mix,
                requests=args.requests if number else max(1, args.requests // 8),  # the first one warms up
                parallel=_PARALLEL,
                seed=hash((mix, number, peer.server.name)) & 0xFFFF_FFFF,
            )
            done = _one(peer, load, sink, cores)
            if number:
                runs[peer.server.name].append(done)
    rows = []
    base = runs.get("collector", [])
    for name, mine in runs.items():
        row = _row(name, f"OTLP, {mix} ({ops_in(mix):.0%} ops)", mine)
        ratios = [each.rate / theirs.rate for each, theirs in zip(mine, base, strict=True)] if base else []
        rows.append(msgspec.structs.replace(row, ratios=ratios))
    return rows


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    spans: int
    elapsed_s: float
    cpu_s: float
    lost: int
    repeated: int
    pushed_back: int
    p99_ms: float
    mib: float | None

    @property
    def rate(self) -> float:
        return self.spans / self.elapsed_s


def _row(name: str, load: str, runs: Sequence[_Run]) -> Row:
    return Row(
        server=name,
        load=load,
        spans_per_s=[each.rate for each in runs],
        cpu_us_per_span=[each.cpu_s * 1e6 / each.spans for each in runs],
        busy=[each.cpu_s / each.elapsed_s for each in runs],
        lost=sum(each.lost for each in runs),
        repeated=sum(each.repeated for each in runs),
        pushed_back=sum(each.pushed_back for each in runs),
        p99_ms=[each.p99_ms for each in runs],
        after_mib=runs[-1].mib,
    )


def _one(peer: Peer, load: OtlpLoad, sink: Sink, cores: Cores) -> _Run:
    sink.ask(f"reset {SERVICE}")
    with pinned(cores.load):
        sender = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.otlp_load", msgspec.json.encode(load).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
    assert sender.stdout is not None
    if sender.stdout.readline().strip() != "ready":
        raise BenchmarkError(f"{peer.server.name} takes no OTLP over gRPC")
    before = cpu_s(peer.server.pid) or 0.0
    output, _ = sender.communicate("go\n", timeout=load.requests + _SPARE_S)
    sent = msgspec.json.decode(output, type=OtlpSent)
    if sent.failed:
        raise BenchmarkError(f"{peer.server.name} refused {sent.failed} requests")
    received = sink.arrived(sent.spans)
    return _Run(
        spans=sent.spans,
        elapsed_s=received.last_s - sent.began_s,
        cpu_s=(cpu_s(peer.server.pid) or 0.0) - before,
        lost=sent.spans - received.spans,
        repeated=received.deliveries - received.spans,
        pushed_back=sent.pushed_back,
        p99_ms=sent.p99_ms,
        mib=resident_mib(peer.server.pid),
    )


def _events(peer: Peer, sink: Sink, cores: Cores, args: argparse.Namespace) -> Row:
    runs = []
    for number in range(args.rounds + 1):
        sink.ask(f"reset {DEFAULT_SERVICE_NAME}")
        load = Load(port=peer.server.port, path="/events", body="batch", connections=4, seconds=args.seconds)
        before = cpu_s(peer.server.pid) or 0.0
        with pinned(cores.load):
            command = [sys.executable, "-m", "benchmarks.load", msgspec.json.encode(load).decode()]
            output = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=load.seconds + _SPARE_S, check=True)
        done = msgspec.json.decode(output.stdout, type=LoadResult)
        received = sink.arrived(done.requests * BATCH)
        # Requests that were under way at the end are not among those counted, but arrive: what arrived is the figure.
        if number:
            runs.append(
                _Run(
                    spans=received.spans,
                    elapsed_s=received.last_s - received.first_s,
                    cpu_s=(cpu_s(peer.server.pid) or 0.0) - before,
                    lost=max(0, done.requests * BATCH - received.spans),
                    repeated=received.deliveries - received.spans,
                    pushed_back=sum(done.not_200.values()),
                    p99_ms=done.p99_ms,
                    mib=resident_mib(peer.server.pid),
                )
            )
    return _row(peer.server.name, f"events, {BATCH} a POST", runs)


async def _watched(port: int, count: int) -> list[float]:
    """Milliseconds from an op's acknowledgement until a `Watch` of all ops shows it, one op after the other."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = ObserverServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        watch = stub.Watch(pb.WatchRequest(equals={"endpoint": "/watched"}))
        await watch.initial_metadata()
        seen: dict[str, float] = {}
        arrived = asyncio.Event()

        async def look() -> None:
            async for message in watch:
                seen[message.op.span_id] = time.monotonic()
                arrived.set()

        looking = asyncio.create_task(look())
        waited = []
        for _ in range(count):
            recorded = await stub.Record(pb.RecordRequest(op=pb.ObservedOp(endpoint="/watched", success=True)))
            acknowledged = time.monotonic()
            async with asyncio.timeout(_QUIET_S):
                while recorded.span_id not in seen:
                    arrived.clear()
                    await arrived.wait()
            waited.append(max(0.0, seen[recorded.span_id] - acknowledged) * 1000)
        watch.cancel()
        await asyncio.wait([looking])
        return waited


@contextlib.contextmanager
def _observer(folder: Path, sink: int, cores: Cores) -> Iterator[Peer]:
    grpc_port = free_port()

    def command(port: int, data: Path) -> Command:
        env = {
            "GATEWAY_URL": "http://127.0.0.1:9",
            "LAKEHOUSE_URL": "http://127.0.0.1:9",
            "OBSERVER_PORT": str(port),
            "OBSERVER_HEALTH_PORT": "0",
            "OBSERVER_GRPC_PORT": str(grpc_port),
            "OBSERVER_PROXY_PORT": "-1",
            "OBSERVER_DATA_DIR": str(data / "data"),
            "OVERSEER_CORRECTIONS_PATH": str(data / "corrections.jsonl"),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sink}",
        }
        return Command([sys.executable, "-m", "sidecar", "run"], env, ROOT)

    with Server(Program("observer", "/readyz", command), folder, {}, cores.server) as server:
        yield Peer(server, grpc_port)


@contextlib.contextmanager
def _collector(binary: Path, folder: Path, sink: int, cores: Cores) -> Iterator[Peer]:
    grpc_port = free_port()

    def command(port: int, data: Path) -> Command:
        config = data / "collector.yaml"
        config.write_text(_COLLECTOR.format(grpc=grpc_port, sink=sink, metrics=port), encoding="utf-8")
        return Command([str(binary), "--config", str(config)], {"GOMAXPROCS": "1"}, ROOT)

    with Server(Program("collector", "/metrics", command), folder, {}, cores.server) as server:
        yield Peer(server, grpc_port)


_COLLECTOR = """
service:
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [otlp]}}
  telemetry:
    logs: {{level: warn}}
    metrics:
      readers: [{{pull: {{exporter: {{prometheus: {{host: 127.0.0.1, port: {metrics}}}}}}}}}]
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:{grpc}", max_recv_msg_size_mib: 20}}}}}}
processors:
  batch: {{}}
exporters:
  otlp:
    endpoint: 127.0.0.1:{sink}
    tls: {{insecure: true}}
"""
"""Its defaults, but for where it listens and sends."""


def show(report: Report, console: Console) -> None:
    """The table, and what is said beside it."""
    table = Table(title="OTLP out, per second on one core, until the last span has arrived")
    for column in (
        "server",
        "load",
        "spans/s",
        "of the Collector",
        "CPU us/span",
        "CPU busy",
        "p99 ms",
        "lost",
        "again",
    ):
        table.add_column(column, justify="left" if column in ("server", "load") else "right")
    for row in report.rows:
        ratio = f"{_middle(row.ratios):.2f} ({min(row.ratios):.2f}-{max(row.ratios):.2f})" if row.ratios else "-"
        table.add_row(
            row.server,
            row.load,
            f"{_middle(row.spans_per_s):,.0f}",
            ratio,
            f"{_middle(row.cpu_us_per_span):.1f}",
            f"{_middle(row.busy):.0%}",
            f"{_middle(row.p99_ms):.0f}",
            str(row.lost),
            str(row.repeated),
        )
    console.print(table)
    waited = sorted(report.watch_ms)
    if waited:
        console.print(
            f"Watch: an op is seen {percentile(waited, 0.5):.1f} ms after its acknowledgement (p50),"
            f" {percentile(waited, 0.99):.1f} ms (p99), {waited[-1]:.1f} ms (most) of {len(waited)}",
            highlight=False,
        )
    if not any(row.server == "collector" for row in report.rows):
        console.print("The Collector was not there: make peers builds it (needs Go)", highlight=False)


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.otlp", description=__doc__.split(":", 1)[1].strip())
    parser.add_argument("--quick", action="store_true", help="1 round of 60 requests: a first look")
    parser.add_argument("--rounds", type=int, help="rounds of each load [3]")
    parser.add_argument("--requests", type=int, help=f"requests of {SPANS} spans a round [300]")
    parser.add_argument("--seconds", type=float, help="length of the load of events in a round [5]")
    parser.add_argument("--watched", type=int, default=300, help="ops whose way to a Watch is measured [300]")
    built = ROOT / "build" / "peers" / "bin" / "otelcol"
    parser.add_argument("--collector", type=Path, default=built if built.exists() else None, help="[build/peers]")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "otlp.json", help="the JSON's file")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "build", help="where data lies while it runs [build/]")
    args = parser.parse_args(arguments)
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.requests = args.requests or (60 if args.quick else 300)
    args.seconds = args.seconds or (2.0 if args.quick else 5.0)
    args.data_dir, args.output = args.data_dir.resolve(), args.output.resolve()
    return args


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
