"""The servers under measurement: each a process pinned to the servers' cores, on a free port of loopback."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[1]

_START_S = 30.0
_STOP_S = 15.0
_POLL_S = 0.002
_KEPT = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")  # the caller's other variables must not change the figures


class BenchmarkError(Exception):
    """A measurement failed."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The cores that the servers and the load generator may use; None = any."""

    server: frozenset[int] | None
    load: frozenset[int] | None


@dataclass(frozen=True, slots=True)
class Command:
    """A command line, its environment besides the kept variables, and its working folder."""

    args: list[str]
    env: dict[str, str]
    cwd: Path


@dataclass(frozen=True, slots=True)
class Program:
    """A server to measure: *command* builds its command for a port and folder; ready once *ready_path* answers 200."""

    name: str
    ready_path: str
    command: Callable[[int, Path], Command]


def noop_program() -> Program:
    """The no-op endpoint."""

    def command(port: int, _folder: Path) -> Command:
        return Command([sys.executable, "-m", "benchmarks.noop_server", str(port)], {}, ROOT)

    return Program("no-op", "/health", command)


def observer_program(settings: Mapping[str, str]) -> Program:
    """The observer as deployed, except for *settings*; its data in *folder*, all doors on ports of their own."""

    def command(port: int, folder: Path) -> Command:
        env = {
            "OBSERVER_PORT": str(port),
            "OBSERVER_HEALTH_PORT": "0",
            "OBSERVER_GRPC_PORT": "0",
            "OBSERVER_PROXY_PORT": "0",
            "OBSERVER_DATA_DIR": str(folder / "data"),
            "OVERSEER_CORRECTIONS_PATH": str(folder / "corrections.jsonl"),
            **settings,
        }
        return Command([sys.executable, "-m", "sidecar", "run"], env, ROOT)

    return Program("observer", "/readyz", command)


def reference_program(bun: str, source: Path, gateway_url: str) -> Program:
    """The program that the observer re-creates, under Bun; a copy of it that listens on loopback only."""

    def command(port: int, folder: Path) -> Command:
        copy = folder / source.name
        copy.write_text(
            source.read_text(encoding="utf-8").replace('hostname: "0.0.0.0"', 'hostname: "127.0.0.1"'),
            encoding="utf-8",
        )
        env = {"GATEWAY_URL": gateway_url, "LAKEHOUSE_URL": gateway_url, "OBSERVER_PORT": str(port)}
        return Command([bun, "run", str(copy)], env, folder)

    return Program("reference", "/health", command)


class Server:
    """A running *program*, for the length of a `with` block; *start_s* is the time from exec to its first 200."""

    def __init__(self, program: Program, folder: Path, env: Mapping[str, str], cores: frozenset[int] | None) -> None:
        self.name = program.name
        self.port = free_port()
        self.start_s = 0.0
        self._program = program
        self._folder = folder
        self._env = env
        self._cores = cores
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        command = self._program.command(self.port, self._folder)
        env = {name: self._env[name] for name in _KEPT if name in self._env} | command.env
        began = time.perf_counter()
        with self._log.open("wb") as output, pinned(self._cores):
            self._process = subprocess.Popen(
                command.args, env=env, cwd=command.cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self._await_ready(began + _START_S)
        except BaseException:
            self._stop()
            raise
        self.start_s = time.perf_counter() - began
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def _log(self) -> Path:
        return self._folder / "output.log"

    def _await_ready(self, deadline: float) -> None:
        assert self._process is not None
        while not _answers(self.port, self._program.ready_path):
            if self._process.poll() is not None or time.perf_counter() > deadline:
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise BenchmarkError(f"{self.name} did not start (exit status {self._process.returncode}):\n{tail}")
            time.sleep(_POLL_S)

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def split_cores(available: frozenset[int]) -> Cores:
    """The last core for the servers, the first for the load; no pinning if there is only one."""
    if len(available) < 2:
        return Cores(None, None)
    return Cores(frozenset([max(available)]), frozenset([min(available)]))


def usable_cores() -> frozenset[int]:
    """The cores this process may run on; empty if unknown or not settable."""
    return frozenset(os.sched_getaffinity(0)) if sys.platform == "linux" else frozenset()


@contextlib.contextmanager
def pinned(cores: frozenset[int] | None) -> Iterator[None]:
    """Pins this thread to *cores* for the block; processes and threads started within stay there."""
    if cores is None or sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def free_port() -> int:
    """A port of loopback on which nobody listens now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def resident_mib(pid: int) -> float | None:
    """VmRSS of *pid* and its descendants in MiB; None without /proc. Source: proc_pid_status(5)."""
    try:
        return sum(_vm_rss_kib(each) for each in _with_descendants(pid)) / 1024
    except OSError:
        return None


def cpu_s(pid: int) -> float | None:
    """CPU seconds used by *pid* and its descendants; None without /proc. Source: proc_pid_stat(5)."""
    try:
        return sum(_ticks(each) for each in _with_descendants(pid)) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return None


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text(encoding="ascii").split():
            yield from _with_descendants(int(child))


def _vm_rss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])  # utime, stime


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
