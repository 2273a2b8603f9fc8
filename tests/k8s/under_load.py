"""The Pod under load for a while: `make load-k8s SECONDS=300`. Prints latencies and memory.

128 MiB and a quarter of a core for the observer; 100 calls a second through it and 10 beside it, for comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.k8s.pods import Pod, customized, missing, patch, running_pod, settings
from tests.manifests import ROOT

SMALL = {"resources": {"requests": {"cpu": "50m", "memory": "80Mi"}, "limits": {"cpu": "250m", "memory": "128Mi"}}}
"""The sidecar's resources in this test."""


@contextlib.contextmanager
def load(pod: Pod, into: Path, seconds: float, **rates: float) -> Iterator[subprocess.Popen[bytes]]:
    """Make calls in the Pod's network during the block, and wait for them at its end; their lines go to *into*."""
    command = [sys.executable, "-m", "tests.k8s.load", "--seconds", str(seconds)]
    command += [part for name, rate in rates.items() for part in (f"--{name}", str(rate))]
    with into.open("wb") as out, subprocess.Popen(pod.inside(command), cwd=ROOT, stdout=out) as process:
        yield process
        assert process.wait(timeout=seconds + 60) == 0


def calls(lines: Path, kind: str) -> list[dict[str, Any]]:
    """The results of the calls of one kind."""
    read = (json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines())
    return [one for one in read if one["kind"] == kind]


def outcomes(lines: Path, kind: str) -> Counter[str]:
    """The number of calls by outcome."""
    return Counter(one["outcome"] for one in calls(lines, kind))


def unanswered(lines: Path, kind: str) -> int:
    """Calls that the gateway did not answer, or answered with 5xx."""
    return sum(count for outcome, count in outcomes(lines, kind).items() if not outcome.startswith(("2", "4")))


def quantiles(lines: Path, kind: str) -> str:
    """Latencies in ms."""
    took = sorted(one["ms"] for one in calls(lines, kind))
    at = {share: took[min(len(took) - 1, int(share * len(took)))] for share in (0.5, 0.95, 0.99)}
    return ", ".join(f"p{share:.0%} {ms:.1f}" for share, ms in at.items()).replace("%", "") + f", most {took[-1]:.1f}"


def resident_mib(pid: int) -> float:
    """Of a process of the Pod, as this machine's kernel counts it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def throttling(pid: int) -> str:
    """How often the CPU quota of its control group throttled a process; "" if that cannot be read."""
    groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    for _, controllers, path in (line.split(":", 2) for line in groups):
        folder = "cpu" if "cpu" in controllers.split(",") else ""
        stat = Path("/sys/fs/cgroup") / folder / path.lstrip("/") / "cpu.stat"
        if ("cpu" in controllers.split(",") or not controllers) and stat.exists():
            told = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
            return f"{told['nr_throttled']} of {told['nr_periods']} periods throttled"
    return ""


def cpu_s(pid: int) -> float:
    """Processor seconds of a process of the Pod."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(seconds: float, rate: float) -> int:
    """Run the load; 1 if a call failed or the sidecar restarted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        observer = {**SMALL, **settings(OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")}
        with running_pod(folder, customized(folder, patch(observer))) as pod:
            lines, memory, pid = folder / "calls.jsonl", [], pod.pid()
            memory.append(resident_mib(pid))
            began_s = cpu_s(pid)
            with load(pod, lines, seconds, proxied=rate, direct=rate / 10) as process:
                while process.poll() is None:
                    memory.append(resident_mib(pid))
                    time.sleep(1)
            used = (cpu_s(pid) - began_s) / seconds
            sys.stdout.write(f"{seconds:.0f} s, {used:.3f} cores used, {throttling(pid)}\n")
            return _told(pod, lines, memory)


def _told(pod: Pod, lines: Path, memory: list[float]) -> int:
    state, stats = pod.state(), pod.get("/stats")
    host = state["HostConfig"]
    say = sys.stdout.write
    say(f"observer with {host['Memory'] >> 20} MiB and {host['NanoCpus'] / 1e9} cores\n")
    for kind in ("proxied", "direct"):
        say(f"{kind:8} {dict(outcomes(lines, kind))}; ms: {quantiles(lines, kind)}\n")
    say(f"resident MiB at start {memory[0]:.1f}, at end {memory[-1]:.1f}, most {max(memory):.1f}\n")
    failed = unanswered(lines, "proxied") + unanswered(lines, "direct")
    restarts, killed = state["RestartCount"], state["State"]["OOMKilled"]
    say(f"failed calls {failed}, restarts {restarts}, killed for memory {killed}\n")
    say(f"ops {stats['total']}, lost {sum(stats['lost'].values())}\n")
    return 1 if failed or restarts else 0


if __name__ == "__main__":
    if missing():
        sys.exit(missing())
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--rate", type=float, default=100)
    given = parser.parse_args()
    sys.exit(main(given.seconds, given.rate))
