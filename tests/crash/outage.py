"""`make outage`: the collector fails under load and comes back; every span must arrive, and memory must stay flat.

Exit status 1 if an event was refused, a span is missing or duplicated, or resident memory rose by over a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

from tests.crash.servers import Collector, Gateway
from tests.crash.soak import Load, Sample, sample
from tests.processes import UNMEASURED, observer_life

_BEFORE_S, _AFTER_S = 60.0, 20.0  # a fresh process takes a minute to settle
_SAMPLE_S = 1.0
_LATE_S = 120.0
_MOST_GROWTH = 0.1


async def outage(seconds: float, rate: float, folder: Path, *, around_s: tuple[float, float]) -> bool:
    """Run *seconds* without a collector at *rate* events/s; print the findings and return whether all is well."""
    collector, gateway = Collector(), Gateway()
    await collector.restore()
    await gateway.restore()
    before_s, after_s = around_s
    places = {
        **UNMEASURED,
        "GATEWAY_URL": gateway.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    try:
        async with observer_life(folder, **places) as observer:
            load = Load(int(observer.url.rpartition(":")[2]), rate)
            running = asyncio.create_task(load.run(before_s + seconds + after_s))
            watch = _Watch(observer.pid, folder / "data", load, collector)
            most = {"before": await watch.most(before_s)}
            await collector.cut()
            most["during"] = await watch.most(seconds)
            await collector.restore()
            most["after"] = await watch.most(after_s)
            await running
            arrived = await collector.wait_taken(load.acknowledged, _LATE_S)
            most["at the end"] = await watch.most(_SAMPLE_S)
            status = await asyncio.to_thread(observer.stop)
    finally:
        await collector.cut()
        await gateway.cut()
    grown = max(most.values()) / most["before"] - 1
    found = [
        (load.refused == 0, f"acknowledged {load.acknowledged}, refused {load.refused}"),
        (
            arrived and len(collector.spans) == load.acknowledged == collector.taken,
            f"spans at the collector {len(collector.spans)}, came again {collector.taken - len(collector.spans)}",
        ),
        (
            grown <= _MOST_GROWTH,
            "resident at most, MiB: " + ", ".join(f"{when} {size / 2**20:.1f}" for when, size in most.items()),
        ),
        (status == 0, f"exit status {status}"),
    ]
    for well, what in found:
        sys.stdout.write(f"{'ok   ' if well else 'WRONG'} {what}\n")
    return all(well for well, _ in found)


class _Watch:
    """Samples a process once a second."""

    def __init__(self, pid: int, data: Path, load: Load, collector: Collector) -> None:
        self._of = (pid, data, load, collector)

    async def most(self, seconds: float) -> int:
        """The peak resident bytes during the next *seconds*."""
        samples: list[Sample] = []
        ends = asyncio.get_running_loop().time() + seconds
        while not samples or asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(min(_SAMPLE_S, seconds))
            samples.append(sample(*self._of, 0.0))
        return max(one.resident for one in samples)


def main() -> int:
    """Exit status: 0 if all is well."""
    parser = argparse.ArgumentParser(prog="make outage")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=2000.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="observer-outage-") as folder:
        well = uvloop.run(outage(options.seconds, options.rate, Path(folder), around_s=(_BEFORE_S, _AFTER_S)))
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
