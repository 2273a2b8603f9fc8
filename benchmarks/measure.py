"""Runs the loads against the servers in interleaved rounds, and reads start time and memory.

All servers run at the same time and are idle unless loaded. A round loads each of them once, one right after another,
so that other load on the machine affects all of them. Ratios are taken within a round.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from benchmarks.events import BATCH, Kind
from benchmarks.load import Load, LoadResult, percentile
from benchmarks.servers import ROOT, BenchmarkError, Cores, Program, Server, cpu_s, pinned, resident_mib

_SPARE_S = 90.0  # extra time for a load process: starting, connecting, draining

Progress = Callable[[str], None]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One load. *events* is the number of events per request; the reference gets single events instead."""

    name: str
    path: str
    body: Kind
    connections: int
    events: int = 1
    probe: bool = False


SCENARIOS = (
    Scenario(name="event_1", path="/event", body="event", connections=1),
    Scenario(name="event_16", path="/event", body="event", connections=16, probe=True),
    Scenario(name="event_64", path="/event", body="event", connections=64),
    Scenario(name="event_extras_16", path="/event", body="extras", connections=16),
    Scenario(name="events_batch", path="/events", body="batch", connections=4, events=BATCH, probe=True),
)
_SINGLE = {"path": "/event", "body": "event", "connections": 16, "events": 1}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One load of one server. *server_cpu_s* is the CPU time of the server's process, None if unknown."""

    load: LoadResult
    events: int
    server_cpu_s: float | None

    @property
    def events_per_s(self) -> float:
        """Events acknowledged per second."""
        return self.events / self.load.elapsed_s

    @property
    def cpu_us_per_event(self) -> float | None:
        """The server's CPU time per event, which depends little on other processes."""
        return None if self.server_cpu_s is None else self.server_cpu_s * 1e6 / self.events

    @property
    def server_busy(self) -> float | None:
        """The share of a core that the server used."""
        return None if self.server_cpu_s is None else self.server_cpu_s / self.load.elapsed_s


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario and its samples by server, one per round."""

    scenario: Scenario
    samples: dict[str, list[Sample]]

    def rate(self, server: str) -> float:
        """Median events (or requests) per second."""
        return statistics.median(sample.events_per_s for sample in self.samples[server])

    def ratios(self, server: str, base: str) -> list[float]:
        """*server*'s rate over *base*'s, round by round."""
        pairs = zip(self.samples[server], self.samples[base], strict=True)
        return [mine.events_per_s / theirs.events_per_s for mine, theirs in pairs if theirs.events_per_s]

    def latency_ms(self, server: str) -> tuple[float, float]:
        """Medians over the rounds of p50 and p99."""
        loads = [sample.load for sample in self.samples[server]]
        return statistics.median(load.p50_ms for load in loads), statistics.median(load.p99_ms for load in loads)

    def cpu_us(self, server: str) -> float | None:
        """Median CPU time of the server per event, in µs."""
        return _median(sample.cpu_us_per_event for sample in self.samples[server])

    def cpu_ratio(self, server: str, base: str) -> float | None:
        """*base*'s CPU time per event over *server*'s: what `ratios` would be if both had a whole core."""
        mine, theirs = self.cpu_us(server), self.cpu_us(base)
        return theirs / mine if mine and theirs else None

    def server_busy(self, server: str) -> float | None:
        """Median share of a core that the server used."""
        return _median(sample.server_busy for sample in self.samples[server])

    def probe_ms(self, server: str) -> tuple[float, float, int]:
        """p50, p99 and number of the `/health` responses over all rounds."""
        probes = sorted(ms for sample in self.samples[server] for ms in sample.load.probe_ms)
        return percentile(probes, 0.50), percentile(probes, 0.99), len(probes)

    def failed(self, server: str) -> int:
        """The number of responses other than 200, and of lost connections."""
        return sum(sum(s.load.not_200.values()) + s.load.lost for s in self.samples[server])


def measure_starts(
    programs: Sequence[Program], folder: Path, env: Mapping[str, str], cores: Cores, times: int, progress: Progress
) -> dict[str, list[float]]:
    """Seconds from exec to the first 200, *times* times for each program in turn, each in a folder of its own."""
    starts: dict[str, list[float]] = {program.name: [] for program in programs}
    for number in range(times):
        for program in programs:
            progress(f"start {number + 1}/{times}, {program.name}")
            with Server(program, folder / f"start-{program.name}-{number}", env, cores.server) as server:
                starts[program.name].append(server.start_s)
    return starts


def resident(servers: Sequence[Server]) -> dict[str, float]:
    """Resident MiB by server, where it can be read."""
    sizes = {server.name: resident_mib(server.pid) for server in servers}
    return {name: size for name, size in sizes.items() if size is not None}


def warm_up(servers: Sequence[Server], cores: Cores, seconds: float) -> None:
    """One uncounted load of each server, for just-in-time compilers and first connections."""
    for server in servers:
        _loaded(server, Scenario(name="warm_up", path="/event", body="event", connections=16), cores, seconds)


def measure(
    scenario: Scenario, servers: Sequence[Server], cores: Cores, *, rounds: int, seconds: float, progress: Progress
) -> Measured:
    """*rounds* of *seconds* each for every server, interleaved."""
    samples: dict[str, list[Sample]] = {server.name: [] for server in servers}
    for number in range(rounds):
        for server in servers:
            progress(f"{scenario.name} {number + 1}/{rounds}, {server.name}")
            samples[server.name].append(_loaded(server, scenario, cores, seconds))
    return Measured(scenario=scenario, samples=samples)


def _loaded(server: Server, scenario: Scenario, cores: Cores, seconds: float) -> Sample:
    if server.name == "reference" and scenario.events > 1:
        scenario = msgspec.structs.replace(scenario, **_SINGLE)  # the reference has no door for batches
    load = Load(
        port=server.port,
        path=scenario.path,
        body=scenario.body,
        connections=scenario.connections,
        seconds=seconds,
        probe="/health" if scenario.probe else "",
    )
    before = cpu_s(server.pid)
    result = _run(load, cores)
    after = cpu_s(server.pid)
    if not result.requests:
        raise BenchmarkError(f"{server.name} answered nothing within {load.seconds:g} s of {scenario.name}")
    used_s = after - before if before is not None and after is not None else None
    return Sample(load=result, events=result.requests * scenario.events, server_cpu_s=used_s)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _run(load: Load, cores: Cores) -> LoadResult:
    args = [sys.executable, "-m", "benchmarks.load", msgspec.json.encode(load).decode()]
    try:
        with pinned(cores.load):
            done = subprocess.run(
                args,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=load.seconds + _SPARE_S,
                check=False,
            )
    except subprocess.TimeoutExpired as exc:
        raise BenchmarkError(f"the load generator took over {exc.timeout:.0f} s") from exc
    if done.returncode != 0:
        raise BenchmarkError(f"the load generator failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    time.sleep(0.05)  # let the server close its side before the next one is loaded
    return msgspec.json.decode(done.stdout, type=LoadResult)
