"""`python -m benchmarks.proxy`: the cost of a call through the proxy, also while the observer has a fault.

The same load goes directly to a stub gateway, through a bare pass-through of the proxy's HTTP stack, and through the
observer in several states (`benchmarks.proxy_server`), in interleaved rounds. Then one long body is streamed, and many
agents request one and never read it.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.in_folder import in_folder
from benchmarks.load import Load, LoadResult
from benchmarks.machine import machine
from benchmarks.proxy_server import STATES
from benchmarks.servers import (
    ROOT,
    BenchmarkError,
    Command,
    Cores,
    Program,
    Server,
    cpu_s,
    pinned,
    resident_mib,
    split_cores,
    usable_cores,
)

_CONNECTIONS = (1, 16)
_DIRECT = "direct"
_SPARE_S = 60.0
_STILL_S = 1.0  # idle for so long: everything has arrived
_UNREAD_BYTES = 64 * 1024  # an agent's receive buffer: 1,000 default ones exhaust the kernel's memory for sockets
_STILL_CPU_S = 0.02  # processor time that counts as idle
_MIB = 2**20


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way at one number of connections: medians over rounds. *added_ms* is relative to the direct call's p50."""

    way: str
    connections: int
    calls_per_s: float
    p50_ms: float
    p99_ms: float
    added_ms: float
    cpu_us_per_call: float | None
    failed: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All results. *streamed_…* describe the long body: bytes, seconds, and growth of the proxy in MiB.

    *stalled_mib* is the largest resident memory of the proxy's process while *stalled_agents* agents did not read.
    """

    machine: Mapping[str, object]
    rounds: int
    seconds: float
    rows: list[Row]
    streamed_bytes: int
    streamed_s: float
    streamed_growth_mib: float
    stalled_agents: int
    stalled_mib: float


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Measure and print; returns 1 if a server did not start."""
    args = _arguments(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    report = in_folder("proxy", args.data_dir, console, lambda folder: run(args, env, folder))
    if report is None:
        return 1
    args.output.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    show(report, console)
    return 0


def run(args: argparse.Namespace, env: Mapping[str, str], folder: Path, states: Sequence[str] = STATES) -> Report:
    """Start the servers, load them in turn, stream the long body. Raises BenchmarkError."""
    cores = split_cores(usable_cores())
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # two per agent that never reads
    with contextlib.ExitStack() as running:
        stub = running.enter_context(Server(_stub(), folder / _DIRECT, env, cores.load))
        url = f"http://127.0.0.1:{stub.port}"
        ways = [stub]
        ways += [running.enter_context(Server(_way(state, url), folder / state, env, cores.server)) for state in states]
        for way in ways:
            _load(way.port, 16, 0.5, cores)
        samples: dict[tuple[str, int], list[tuple[LoadResult, float | None]]] = {}
        for _ in range(args.rounds):
            for connections in _CONNECTIONS:
                for way in ways:
                    samples.setdefault((way.name, connections), []).append(
                        _sample(way, connections, args.seconds, cores)
                    )
        observed = next(way for way in ways if way.name == "observed")
        took_s, growth_mib = stream(observed.port, observed.pid, args.stream_bytes, cores)
        stalled_mib = stall(observed.port, observed.pid, args.stalled_agents)
    return Report(
        machine=machine(folder),
        rounds=args.rounds,
        seconds=args.seconds,
        rows=_rows(samples),
        streamed_bytes=args.stream_bytes,
        streamed_s=took_s,
        streamed_growth_mib=growth_mib,
        stalled_agents=args.stalled_agents,
        stalled_mib=stalled_mib,
    )


def stream(port: int, pid: int, size: int, cores: Cores) -> tuple[float, float]:
    """Read *size* bytes through the proxy; returns (seconds, the largest growth of its process in MiB)."""
    before = resident_mib(pid) or 0.0
    most, done = before, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, resident_mib(pid) or 0.0)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        with pinned(cores.load), socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(b"GET /stream/%d HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n" % size)
            got = 0
            while data := sock.recv(_MIB):
                got += len(data)
    finally:
        done.set()
        watcher.join()
    if got < size:
        raise BenchmarkError(f"of {size} streamed bytes {got} came")
    return time.perf_counter() - began, most - before


def stall(port: int, pid: int, agents: int) -> float:
    """Let *agents* agents request a long text and never read it; returns the process's most resident memory in MiB."""
    most, worked_s, still_since = 0.0, 0.0, time.perf_counter()
    with contextlib.ExitStack() as asking:
        for _ in range(agents):
            sock = asking.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNREAD_BYTES)
            sock.settimeout(60)
            sock.connect(("127.0.0.1", port))
            sock.sendall(b"GET /text/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % (16 * _MIB))
        while time.perf_counter() - still_since < _STILL_S:
            most = max(most, resident_mib(pid) or 0.0)
            now_s = cpu_s(pid) or 0.0
            if now_s > worked_s + _STILL_CPU_S:
                worked_s, still_since = now_s, time.perf_counter()
            time.sleep(0.05)
    deadline = time.perf_counter() + _STILL_S  # call details are read when the agents have left
    while time.perf_counter() < deadline:
        most = max(most, resident_mib(pid) or 0.0)
        time.sleep(0.05)
    return most


def show(report: Report, console: Console) -> None:
    """Print the table and the notes."""
    table = Table(title=f"Calls through the proxy ({report.rounds} rounds of {report.seconds:g} s)")
    for column in ("way", "connections", "calls/s", "p50 ms", "p99 ms", "added p50 ms", "CPU µs/call", "failed"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for row in report.rows:
        cpu = f"{row.cpu_us_per_call:.0f}" if row.cpu_us_per_call is not None else "?"
        cells = [f"{row.calls_per_s:,.0f}", f"{row.p50_ms:.3f}", f"{row.p99_ms:.2f}", f"{row.added_ms:+.3f}", cpu]
        table.add_row(row.way, str(row.connections), *cells, str(row.failed))
    console.print(table)
    rate = report.streamed_bytes / _MIB / report.streamed_s
    grown = f"the proxy grew by {report.streamed_growth_mib:.1f} MiB at most"
    console.print(
        f"{report.streamed_bytes / _MIB:,.0f} MiB streamed in {report.streamed_s:.1f} s ({rate:,.0f} MiB/s): {grown}"
    )
    console.print(f"{report.stalled_agents:,} agents that never read: {report.stalled_mib:.1f} MiB resident at most")
    facts = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    console.print(facts, highlight=False, markup=False)


def _rows(samples: Mapping[tuple[str, int], list[tuple[LoadResult, float | None]]]) -> list[Row]:
    rows = []
    for (way, connections), results in samples.items():
        direct = [load.p50_ms for load, _ in samples[_DIRECT, connections]]
        p50s = [load.p50_ms for load, _ in results]
        cpu = [used * 1e6 / load.requests for load, used in results if used is not None and load.requests]
        rows.append(
            Row(
                way=way,
                connections=connections,
                calls_per_s=statistics.median(load.requests / load.elapsed_s for load, _ in results),
                p50_ms=statistics.median(p50s),
                p99_ms=statistics.median(load.p99_ms for load, _ in results),
                added_ms=statistics.median(mine - theirs for mine, theirs in zip(p50s, direct, strict=True)),
                cpu_us_per_call=statistics.median(cpu) if cpu else None,
                failed=sum(sum(load.not_200.values()) + load.lost for load, _ in results),
            )
        )
    return sorted(rows, key=lambda row: row.connections)


def _sample(way: Server, connections: int, seconds: float, cores: Cores) -> tuple[LoadResult, float | None]:
    before = cpu_s(way.pid)
    result = _load(way.port, connections, seconds, cores)
    after = cpu_s(way.pid)
    return result, after - before if before is not None and after is not None else None


def _load(port: int, connections: int, seconds: float, cores: Cores) -> LoadResult:
    load = Load(port=port, path="/tools/fill_shift", body="event", connections=connections, seconds=seconds)
    args = [sys.executable, "-m", "benchmarks.load", msgspec.json.encode(load).decode()]
    with pinned(cores.load):
        done = subprocess.run(args, cwd=ROOT, capture_output=True, timeout=seconds + _SPARE_S, check=False)
    if done.returncode != 0:
        raise BenchmarkError(f"the load generator failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return msgspec.json.decode(done.stdout, type=LoadResult)


def _stub() -> Program:
    def command(port: int, _folder: Path) -> Command:
        return Command([sys.executable, "-m", "benchmarks.upstream_stub", str(port)], {}, ROOT)

    return Program(_DIRECT, "/health", command)


def _way(state: str, gateway_url: str) -> Program:
    def command(port: int, folder: Path) -> Command:
        args = [sys.executable, "-m", "benchmarks.proxy_server", state, str(port), gateway_url, str(folder)]
        return Command(args, {}, ROOT)

    return Program(state, "/health", command)


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy", description="What a proxied call costs.")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each load [3]")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each load [2]")
    parser.add_argument("--stream-bytes", type=int, default=2**30, help="size of the long body [1 GiB]")
    parser.add_argument("--stalled-agents", type=int, default=1000, help="agents that never read [1000]")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "proxy.json", help="the JSON's file")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "build", help="where data lies while it runs [build/]")
    args = parser.parse_args(arguments)
    args.data_dir = args.data_dir.resolve()
    return args


if __name__ == "__main__":
    import os

    sys.exit(main(sys.argv[1:], os.environ))
