"""`python -m benchmarks.otlp`: the cost of forwarding OTLP and learning from it, beside the real Collector.

OTLP in → learn → OTLP out, at 512 spans a request, in two mixes (`otlp_requests`); the Collector (OTLP in, batch, OTLP
out; built by `make peers`) with one processor on the same core in the same rounds; events in → OTLP out; and the delay
between an op's acknowledgement and its appearance in a `Watch`. A run ends when the last span has arrived at the sink.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.events import BATCH
from benchmarks.in_folder import in_folder
from benchmarks.load import Load, LoadResult
from benchmarks.machine import machine
from benchmarks.otlp_load import OtlpLoad, OtlpSent
from benchmarks.otlp_report import Report, Row, Run, row_of, show
from benchmarks.otlp_requests import SERVICE, SPANS, Mix, ops_in
from benchmarks.otlp_servers import Peer, Sink, running_collector, running_observer
from benchmarks.otlp_watch import watched
from benchmarks.servers import ROOT, BenchmarkError, Cores, cpu_s, pinned, resident_mib, split_cores, usable_cores
from sidecar.spans.provider import DEFAULT_SERVICE_NAME

_MIXES: tuple[Mix, ...] = ("agent", "ops")
_PARALLEL = 4
_SPARE_S = 120.0


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write the JSON; returns 1 if a server did not start."""
    args = _arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 130)
    report = in_folder("otlp", args.data_dir, console, lambda folder: run(args, folder, console))
    if report is None:
        return 1
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
        observer = stack.enter_context(running_observer(folder / "observer", sink.port, cores))
        peers = [observer]
        if args.collector is not None:
            peers.append(stack.enter_context(running_collector(args.collector, folder / "collector", sink.port, cores)))
        rows = []
        for mix in _MIXES:
            console.print(f"{mix}: {args.requests} requests of {SPANS} spans, {args.rounds} rounds", highlight=False)
            rows += _measured(mix, peers, sink, cores, args)
        rows.append(_events(observer, sink, cores, args))
        watch_ms = asyncio.run(watched(observer.grpc_port, args.watched))
    settings = {"rounds": args.rounds, "requests": args.requests, "spans_a_request": SPANS, "parallel": _PARALLEL}
    return Report(machine=facts, settings=settings, rows=rows, watch_ms=watch_ms)


def _measured(mix: Mix, peers: Sequence[Peer], sink: Sink, cores: Cores, args: argparse.Namespace) -> list[Row]:
    runs: dict[str, list[Run]] = {peer.server.name: [] for peer in peers}
    for number in range(args.rounds + 1):
        for peer in peers:
            load = OtlpLoad(
                port=peer.grpc_port,
                mix=mix,
                requests=args.requests if number else max(1, args.requests // 8),  # the first round warms up
                parallel=_PARALLEL,
                seed=hash((mix, number, peer.server.name)) & 0xFFFF_FFFF,
            )
            done = _one(peer, load, sink, cores)
            if number:
                runs[peer.server.name].append(done)
    base = runs.get("collector", [])
    return [row_of(name, f"OTLP, {mix} ({ops_in(mix):.0%} ops)", mine, base) for name, mine in runs.items()]


def _one(peer: Peer, load: OtlpLoad, sink: Sink, cores: Cores) -> Run:
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
    return Run(
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
        # Requests under way at the end are not counted as done, but arrive: so the arrived spans are the figure.
        if number:
            runs.append(
                Run(
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
    return row_of(peer.server.name, f"events, {BATCH} a POST", runs)


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
