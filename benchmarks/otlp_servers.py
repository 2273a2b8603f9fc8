"""The servers of the OTLP benchmark: the observer, the real Collector, and the sink at which spans arrive."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.otlp_sink import Received
from benchmarks.servers import ROOT, BenchmarkError, Command, Cores, Program, Server, free_port, pinned

QUIET_S = 3.0
"""After so long without an arrival, no more spans are expected."""

_ARRIVAL_S = 120.0
_LOOK_S = 0.05


class Sink:
    """The sink: a process of its own on the load's core."""

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
        """What the sink has received; *what* may be `reset SERVICE`, which restarts the count."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError("the sink has ended")
        return msgspec.json.decode(line, type=Received)

    def arrived(self, spans: int) -> Received:
        """What the sink has received, once it has *spans* spans or no more arrive."""
        deadline, seen, since = time.monotonic() + _ARRIVAL_S, -1, time.monotonic()
        while True:
            received = self.ask()
            if received.spans != seen:
                seen, since = received.spans, time.monotonic()
            if received.spans >= spans or time.monotonic() > min(deadline, since + QUIET_S):
                return received
            time.sleep(_LOOK_S)

    def close(self) -> None:
        """End the sink's process."""
        self._process.communicate()


class Peer:
    """A server under measurement: its process and its port for OTLP over gRPC."""

    def __init__(self, server: Server, grpc_port: int) -> None:
        self.server = server
        self.grpc_port = grpc_port


@contextlib.contextmanager
def running_observer(folder: Path, sink: int, cores: Cores) -> Iterator[Peer]:
    """The observer, exporting to port *sink*, with its data in *folder*."""
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
def running_collector(binary: Path, folder: Path, sink: int, cores: Cores) -> Iterator[Peer]:
    """The Collector *binary*, exporting to port *sink*, with one processor."""
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
"""The Collector's defaults, except for its addresses."""
