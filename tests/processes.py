"""Runs the real program as a process: `with running_observer(tmp_path) as observer: httpx.get(observer.url + …)`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0
"""How long to wait for what is bound to come: on a busy machine a program under coverage takes long to start."""
NOWHERE = "http://127.0.0.1:9"
"""An address on which nothing listens (the discard port)."""
_OURS = ("OBSERVER_", "OTEL_", "K8S_", "GATEWAY_URL", "LAKEHOUSE_URL", "OVERSEER_", "NO_COLOR")


UNMEASURED = {"COVERAGE_PROCESS_START": "", "COVERAGE_PROCESS_CONFIG": ""}
"""Settings for a program under load: without coverage, which slows it down and would be lost on a kill."""


def observer_env(tmp_path: Path, **settings: str) -> dict[str, str]:
    """This process's environment with test settings (free ports, files in *tmp_path*), overridden by *settings*."""
    clean = {name: value for name, value in os.environ.items() if not name.upper().startswith(_OURS)}
    return {
        **clean,
        "OBSERVER_PORT": "0",
        "OBSERVER_HEALTH_PORT": "0",
        "OBSERVER_GRPC_PORT": "-1",
        "OBSERVER_PROXY_PORT": "-1",
        "OBSERVER_DATA_DIR": str(tmp_path / "data"),
        "OVERSEER_CORRECTIONS_PATH": str(tmp_path / "corrections.jsonl"),
        "GATEWAY_URL": NOWHERE,
        "LAKEHOUSE_URL": NOWHERE,
        "OBSERVER_LOG_FORMAT": "json",
        **settings,
    }


def observer_command(*arguments: str) -> list[str]:
    """The command line of the program with *arguments*."""
    return [sys.executable, "-m", "sidecar", *arguments]


def run_command(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `observer ARGUMENTS` to its end."""
    return subprocess.run(
        observer_command(*arguments),
        env=observer_env(tmp_path, **settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Process:
    """A running command whose standard error is kept line by line. `url` and `health_url` once it is ready."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.url = ""
        self.health_url = ""
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log lines that are JSON, decoded."""
        found = []
        for line in list(self.lines):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]

    def wait_for(self, name: str, fits: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
        """Wait for the first matching event *name*; fails with the log if it does not come."""

        def found() -> dict[str, Any] | None:
            return next((e for e in self.events if e.get("event") == name and fits(e)), None)

        with self._changed:
            self._changed.wait_for(lambda: self._ended or found(), PATIENCE_S)
        event = found()
        assert event is not None, f"no {name} in the log:\n" + "\n".join(self.lines)
        return event

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process itself."""
        self._popen.send_signal(number)

    def wait(self) -> int:
        """Wait for the exit; return the status."""
        status = self._popen.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def stop(self) -> int:
        """Send SIGTERM; return the exit status. Kills it if it does not end."""
        if self._popen.poll() is None:
            self.send(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """Send SIGKILL; return the exit status."""
        self._popen.kill()
        return self.wait()


@contextlib.contextmanager
def started(tmp_path: Path, *arguments: str, **settings: str) -> Iterator[Process]:
    """`observer ARGUMENTS` as a process, ended by its pid afterwards."""
    popen = subprocess.Popen(
        observer_command(*arguments),
        env=observer_env(tmp_path, **settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    with popen:
        process = Process(popen)
        try:
            yield process
        finally:
            process.stop()


@contextlib.contextmanager
def running_observer(tmp_path: Path, *arguments: str, **settings: str) -> Iterator[Process]:
    """`observer run ARGUMENTS` with *settings* over `observer_env`, ready when the block begins.

    Readiness and ports are read from the log, so its format must stay JSON.
    """
    with started(tmp_path, "run", *arguments, **settings) as process:
        ready = process.wait_for("observer.ready")
        process.url = f"http://127.0.0.1:{ready['port']}"
        process.health_url = f"http://127.0.0.1:{ready['health_port']}"
        yield process


@contextlib.asynccontextmanager
async def observer_life(tmp_path: Path, **settings: str) -> AsyncIterator[Process]:
    """`running_observer` for blocks that use the event loop; its log is appended to `observer.log`."""
    manager = running_observer(tmp_path, **settings)
    observer = await asyncio.to_thread(manager.__enter__)
    try:
        yield observer
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)
        with (tmp_path / "observer.log").open("a") as log:
            log.writelines(f"{line}\n" for line in observer.lines)
