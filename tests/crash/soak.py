"""`make soak MINUTES=n`: steady load with a collector and gateway; writes memory, threads, descriptors, files as CSV.

Exit status 1 if any of them grew, an event was refused, or a span did not arrive.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import uvloop

from sidecar.settings import Settings
from tests.crash.events import event_of
from tests.crash.http_client import HttpConnection
from tests.crash.load import dumps
from tests.crash.servers import Collector, Gateway
from tests.processes import UNMEASURED, Process, observer_life

_CONNECTIONS = 16
_NAMED_EVERY = 20  # every 20th event has an id: a million remembered ids alone take 30 MiB
_SAMPLE_S = 10.0
_SETTLED_S = 300.0
_WINDOW_S = 60.0  # two cycles: a single sample of memory depends on what the observer is doing
_MOST_GROWTH = 0.05
_MOST_RESIDENT = 120 * 2**20
_SPARE = 2  # threads or descriptors that a single sample may have by chance
_LATE_S = 60.0
_FOLDER_BYTES = 256 * 2**20  # below the default, so that a run of minutes reaches the limit


@dataclass(frozen=True)
class Sample:
    """One row of the CSV. *seconds* since the load began; sizes in bytes.

    *anonymous*: the part of *resident* not backed by files; library pages come and go as the machine needs memory.
    """

    seconds: float
    acknowledged: int
    refused: int
    exported: int
    resident: int
    anonymous: int
    threads: int
    descriptors: int
    journals: int
    state: int
    folder: int


class Load:
    """Posts *rate* events a second over several connections, each with its own timing."""

    def __init__(self, port: int, rate: float) -> None:
        self._port = port
        self._pause_s = _CONNECTIONS / rate
        self._next = 0
        self.acknowledged = 0
        self.refused = 0

    async def run(self, seconds: float) -> None:
        """Post for *seconds*."""
        async with asyncio.TaskGroup() as senders:
            for number in range(_CONNECTIONS):
                senders.create_task(self._sender(number, seconds))

    async def _sender(self, number: int, seconds: float) -> None:
        http, now = HttpConnection(self._port), asyncio.get_running_loop().time
        began = now()
        count = 0
        while (due := began + (count + number / _CONNECTIONS) * self._pause_s) < began + seconds:
            await asyncio.sleep(max(0.0, due - now()))
            count += 1
            await self._post(http, f"{number}-{count}")
        http.drop()

    async def _post(self, http: HttpConnection, event_id: str) -> None:
        self._next += 1
        event = event_of(event_id, named=self._next % _NAMED_EVERY == 0)
        status, _ = await http.request("POST", "/event", dumps(event))
        if status == 200:
            self.acknowledged += 1
        else:
            self.refused += 1


def sample(pid: int, data: Path, load: Load, collector: Collector, seconds: float) -> Sample:
    """Measure the process and its folder. Source: proc(5)."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    sizes = {path.name: path.stat().st_size for path in data.rglob("*") if path.is_file()}
    return Sample(
        seconds=round(seconds, 1),
        acknowledged=load.acknowledged,
        refused=load.refused,
        exported=collector.taken,
        resident=int(status["VmRSS"].split()[0]) * 1024,
        anonymous=int(status["RssAnon"].split()[0]) * 1024,
        threads=int(status["Threads"]),
        descriptors=len(list((proc / "fd").iterdir())),
        journals=sum(size for name, size in sizes.items() if name.endswith(".jsonl")),
        state=sum(size for name, size in sizes.items() if name.startswith("state.db")),
        folder=sum(sizes.values()),
    )


def findings(samples: Sequence[Sample], minutes: float, rate: float, most_bytes: int) -> list[tuple[bool, str]]:
    """One (whether it is well, text) per check. Short runs count their first half as warm-up."""
    settled_s = min(_SETTLED_S, minutes * 30)
    end = samples[-1]
    early = [one for one in samples if one.seconds <= settled_s] or list(samples[:1])
    late = samples[-3:]
    before, after = (_median_before(samples, one, min(_WINDOW_S, settled_s / 2)) for one in (early[-1], end))
    growth, most = after / before - 1, max(one.resident for one in samples)
    detail = f"single samples {_mib(early[-1].resident)}, {_mib(end.resident)}, of which in no file "
    detail += f"{_mib(early[-1].anonymous)}, {_mib(end.anonymous)}"
    wanted = rate * minutes * 60
    found = [
        (end.acknowledged >= 0.95 * wanted, f"acknowledged {end.acknowledged} of {wanted:.0f}"),
        (end.refused == 0, f"refused {end.refused}"),
        (
            growth <= _MOST_GROWTH,
            f"resident {_mib(before)} after {settled_s:.0f} s, {_mib(after)} at the end ({growth:+.1%}; {detail})",
        ),
        (most <= _MOST_RESIDENT, f"resident at most {_mib(most)}, bound {_mib(_MOST_RESIDENT)}"),
    ]
    for name in ("threads", "descriptors"):
        first, last = (max(getattr(one, name) for one in part) for part in (early, late))
        found.append((last <= first + _SPARE, f"{name} {first}, at the end {last}"))
    largest = max(one.folder for one in samples)
    found.append((largest <= most_bytes, f"data folder at most {_mib(largest)}, bound {_mib(most_bytes)}"))
    return found


def _median_before(samples: Sequence[Sample], end: Sample, window_s: float) -> float:
    return statistics.median(one.resident for one in samples if end.seconds - window_s < one.seconds <= end.seconds)


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


async def soak(minutes: float, rate: float, folder: Path, table: Path, settings: dict[str, str]) -> bool:
    """Run the load for *minutes*; return whether nothing grew or was lost."""
    collector, gateway = Collector(keep=False), Gateway()
    await collector.restore()
    await gateway.restore()
    samples: list[Sample] = []
    try:
        places = {
            **UNMEASURED,
            "GATEWAY_URL": gateway.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }
        async with observer_life(folder, **{**places, **settings}) as observer:
            load = await _run(observer, minutes, rate, folder / "data", collector, samples, table)
            await collector.wait_taken(load.acknowledged, _LATE_S)
            samples.append(sample(observer.pid, folder / "data", load, collector, minutes * 60))
            status = await asyncio.to_thread(observer.stop)
    finally:
        await collector.cut()
        await gateway.cut()
    bound = Settings.from_env(settings).data_max_bytes
    found = findings(samples, minutes, rate, bound)
    found.append((collector.taken >= load.acknowledged, f"spans at the collector {collector.taken}"))
    found.append((status == 0, f"exit status {status}"))
    for well, what in found:
        _say(f"{'ok   ' if well else 'WRONG'} {what}")
    return all(well for well, _ in found)


async def _run(
    observer: Process,
    minutes: float,
    rate: float,
    data: Path,
    collector: Collector,
    samples: list[Sample],
    table: Path,
) -> Load:
    load = Load(int(observer.url.rpartition(":")[2]), rate)
    every_s = min(_SAMPLE_S, minutes * 60 / 12)
    with table.open("w", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Sample)])
        rows.writeheader()
        running = asyncio.create_task(load.run(minutes * 60))
        began = time.monotonic()
        while not running.done():
            await asyncio.wait([running], timeout=every_s)
            samples.append(sample(observer.pid, data, load, collector, time.monotonic() - began))
            rows.writerow(asdict(samples[-1]))
            file.flush()
            one = samples[-1]
            _say(
                f"{one.seconds:7.0f} s  acknowledged {one.acknowledged:8d}  resident {_mib(one.resident)}  threads "
                f"{one.threads}  descriptors {one.descriptors}  data {_mib(one.folder)}"
            )
        await running
    return load


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Exit status: 0 if all is well."""
    parser = argparse.ArgumentParser(prog="make soak")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--csv", type=Path, default=Path("build/soak.csv"))
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the observer's")
    options = parser.parse_args()
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    settings = {"OBSERVER_DATA_MAX_BYTES": str(_FOLDER_BYTES), **dict(text.split("=", 1) for text in options.set)}
    with tempfile.TemporaryDirectory(prefix="observer-soak-") as folder:
        well = uvloop.run(soak(options.minutes, options.rate, Path(folder), options.csv, settings))
    _say(f"samples: {options.csv}")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
