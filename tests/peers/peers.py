"""The real Collector and Jaeger as processes; `make peers` builds them into build/peers/bin."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / "build" / "peers" / "bin"
COLLECTOR_CONFIG = ROOT / "otel-collector.yaml"
_JAEGER_CONFIG = ROOT / "k8s" / "overlays" / "observability" / "jaeger" / "jaeger.yaml"
PATIENCE_S = 60.0
_EVERY_S = 0.2

T = TypeVar("T")


def missing() -> str:
    """Why the peers cannot be run here; "" if they can."""
    absent = [name for name in ("otelcol", "jaeger") if not (BIN / name).exists()]
    return f"{' and '.join(absent)} not built: make peers (needs Go)" if absent else ""


@dataclass(frozen=True)
class Jaeger:
    """A running Jaeger: its OTLP endpoint, and queries of its spans."""

    otlp: str
    query: str

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace as the query API gives them; none if it is not known."""
        answer = httpx.get(f"{self.query}/api/traces/{trace_id}", trust_env=False, timeout=PATIENCE_S)
        return answer.json()["data"][0]["spans"] if answer.status_code == 200 else []

    def spans(self, trace_id: str, count: int) -> list[dict[str, Any]]:
        """As `trace`, once there are *count* of them."""
        return waited_for(lambda: found if len(found := self.trace(trace_id)) >= count else None)


@dataclass(frozen=True)
class Collector:
    """A running Collector with the project's own configuration."""

    grpc: str
    http: str
    metrics: str


def waited_for(look: Callable[[], T | None]) -> T:
    """Poll *look* until its result is not None; return that. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(_EVERY_S)
    raise TimeoutError("it did not come")


@contextlib.contextmanager
def jaeger(folder: Path) -> Iterator[Jaeger]:
    """A running Jaeger with in-memory storage."""
    otlp, query = free_ports(2)
    ports = {"JAEGER_OTLP_PORT": str(otlp), "JAEGER_QUERY_PORT": str(query), "JAEGER_GRPC_PORT": "0"}
    env = {**ports, "OTEL_TRACES_SAMPLER": "always_off"}
    peer = Jaeger(f"127.0.0.1:{otlp}", f"http://127.0.0.1:{query}")
    with running([str(BIN / "jaeger"), "--config", str(_JAEGER_CONFIG)], env, folder / "jaeger.log"):
        waited_for(lambda: _answers(f"{peer.query}/api/services"))
        yield peer


@contextlib.contextmanager
def collector(folder: Path, jaeger_endpoint: str, host: str = "127.0.0.1", grpc: int = 0) -> Iterator[Collector]:
    """A running Collector, configured by environment to export to Jaeger, without Tempo. It listens on *host*."""
    http, metrics, nowhere, any_port = free_ports(4)
    grpc = grpc or any_port
    env = {
        "OTLP_HOST": host,
        "OTLP_GRPC_PORT": str(grpc),
        "OTLP_HTTP_PORT": str(http),
        "METRICS_PORT": str(metrics),
        "JAEGER_ENDPOINT": jaeger_endpoint,
        "TEMPO_ENDPOINT": f"127.0.0.1:{nowhere}",
    }
    peer = Collector(f"http://{host}:{grpc}", f"http://{host}:{http}", f"http://127.0.0.1:{metrics}/metrics")
    command = [str(BIN / "otelcol"), "--config", str(COLLECTOR_CONFIG)]
    with running(command, env, folder / "collector.log"):
        waited_for(lambda: _answers(peer.metrics))
        yield peer


def validated() -> subprocess.CompletedProcess[str]:
    """The result of the Collector's `validate` of the project's configuration."""
    command = [str(BIN / "otelcol"), "validate", "--config", str(COLLECTOR_CONFIG)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def free_ports(count: int) -> list[int]:
    """Currently free loopback ports, as these programs do not tell which port they chose."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def running(command: list[str], env: Mapping[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **env}, stdout=file, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool | None:
    try:
        return httpx.get(url, trust_env=False).status_code == 200 or None
    except httpx.HTTPError:
        return None
