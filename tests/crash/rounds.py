"""One round: a first process under load and a fault, a second that must recover, and the oracle's verdict."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.crash.disk import FaultLayer, SmallDisk, shim
from tests.crash.faults import COMMIT_TIMEOUT_S, FAULTS, Fault, Scene
from tests.crash.http_client import Broken, HttpConnection
from tests.crash.journal import read
from tests.crash.load import CONNECTIONS, SENT_AGAIN_OVER, Ledger, Sender, send_again
from tests.crash.oracle import Verdict, diagnoses, judge, repeats, spans_of
from tests.crash.servers import Collector, Gateway
from tests.processes import UNMEASURED, Process, observer_life, started

_EXPORT_S = 20.0
_POSTED_S = 20.0
_IN_FLIGHT = 512  # spans in the request that a kill may leave unanswered
_FOLDER_BYTES = 32 * 2**20  # journal segments of 1 MiB: a round fills several, and never as many as are kept
_SAMPLE = 200  # acknowledged events sent again after the restart
_FRESH = 1000  # number of the first connection to the second process


@dataclass
class Round:
    """How a round went."""

    seed: int
    fault: str
    ended_by: str
    note: str
    acknowledged: int
    refused: int
    lines: int
    exported_again: int
    posts: int
    posted_again: int
    seconds: float
    verdict: Verdict


def fault_of(seed: int) -> Fault:
    """The fault of a round with *seed*, even if this machine cannot inject it."""
    return FAULTS[seed % len(FAULTS)]


async def run_round(seed: int, folder: Path) -> Round:
    """Run the round of *seed* in the empty *folder*. Failures are in the verdict, not raised."""
    began = time.monotonic()
    fault = fault_of(seed)
    missing = fault.missing()
    if missing:
        fault = FAULTS[0]
    random = Random(seed)
    fsync = random.choice(["1", "1", "always", "0.1"])
    scene = Scene(folder / "data", random, Ledger(), Collector(), Gateway(), fsync=fsync)
    scene.ending = fault.ending or random.choices(["SIGKILL", "SIGTERM"], [3, 1])[0]
    settings = _settings(scene, fault, folder)
    try:
        await scene.collector.restore()
        await scene.gateway.restore()
        settings |= {"OTEL_EXPORTER_OTLP_ENDPOINT": scene.collector.url, "GATEWAY_URL": scene.gateway.url}
        verdict = await _play(scene, fault, folder, settings)
    except (AssertionError, Broken) as exc:  # the observer did not start, or ended
        verdict = Verdict(other=[repr(exc)])
    finally:
        await scene.collector.cut()
        await scene.gateway.cut()
        lines = len(read(scene.data)[0])
        if scene.disk is not None:
            await asyncio.to_thread(_unmounted, scene.disk, folder)
    return Round(
        seed,
        fault.name,
        scene.ending,
        missing or ", ".join(scene.struck),
        len(scene.ledger.acknowledged),
        len(scene.ledger.refused),
        lines,
        repeats(scene.collector.spans),
        len(scene.gateway.posts),
        scene.gateway.repeated,
        time.monotonic() - began,
        verdict,
    )


def _unmounted(disk: SmallDisk, folder: Path) -> None:
    """Unmount the in-memory disk, after copying its contents for the inspection of a failed round."""
    shutil.copytree(disk.folder, folder / "data-kept")
    disk.unmount()


def _settings(scene: Scene, fault: Fault, folder: Path) -> dict[str, str]:
    settings = {
        **UNMEASURED,
        "OBSERVER_CYCLE": "0.3",
        "OBSERVER_COMMIT_TIMEOUT": str(COMMIT_TIMEOUT_S),
        "OBSERVER_FSYNC": scene.fsync,
        "OBSERVER_DATA_MAX_BYTES": str(_FOLDER_BYTES),
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
    }
    if fault.needs == "disk":
        scene.disk = SmallDisk(scene.data)
        assert scene.disk.mount()
    library = shim() if fault.needs == "shim" else None
    if library is not None:
        scene.layer = FaultLayer(library, scene.data, folder / "fault")
        settings |= scene.layer.env
    return settings


async def _play(scene: Scene, fault: Fault, folder: Path, settings: dict[str, str]) -> Verdict:
    async with observer_life(folder, **settings) as observer:
        await _first_life(scene, fault, observer)
    if scene.layer is not None:
        scene.layer.clear()
    if scene.disk is not None:
        scene.disk.free()
    if fault.between is not None:
        fault.between(scene)
    for _ in range(fault.false_starts):
        await asyncio.to_thread(_false_start, scene, folder, settings)
    unsettled = [one for one in scene.ledger.unsettled if one not in scene.spoilt]
    async with observer_life(folder, **settings) as observer:
        unexported = await _second_life(scene, observer, unsettled)
        status = await asyncio.to_thread(observer.stop)
    verdict = judge(scene, set(unsettled))
    again, most = repeats(scene.collector.spans), _IN_FLIGHT * (1 + fault.false_starts)
    if again > most and fault.keeps_cursor and not fault.needs:
        verdict.other.append(f"{again} spans were exported again, more than the {most} that were in flight")
    verdict.unexported = unexported
    if status != 0:
        verdict.other.append(f"SIGTERM ended the second life with status {status}")
    return verdict


def _false_start(scene: Scene, folder: Path, settings: dict[str, str]) -> None:
    """Start the observer, and kill it while it starts or shortly after."""
    with started(folder, "run", **settings) as observer:
        time.sleep(scene.random.uniform(0.1, 0.9))
        observer.kill()


async def _first_life(scene: Scene, fault: Fault, observer: Process) -> None:
    port = _port(observer)
    async with asyncio.TaskGroup() as senders:
        for number in range(CONNECTIONS):
            sender = Sender(port, number, scene.ledger, Random(scene.random.random()))
            senders.create_task(sender.run())
        await fault.strike(scene, observer)
        if scene.ending == "SIGKILL":
            await asyncio.to_thread(observer.kill)
        else:
            await _terminated(scene, observer)


async def _terminated(scene: Scene, observer: Process) -> None:
    status = await asyncio.to_thread(observer.stop)
    if status != 0 and not (scene.layer or scene.disk):  # with a failing disk, a non-zero status is legitimate
        scene.failures.append(f"SIGTERM under load ended with status {status}")


async def _second_life(scene: Scene, observer: Process, unsettled: list[str]) -> list[str]:
    """Send unsettled, known and new events; return the ids whose spans do not reach the collector."""
    port, ledger = _port(observer), scene.ledger
    named = [one for one in ledger.acknowledged if ledger.sent[one] and one not in scene.spoilt]
    known = scene.random.sample(named, min(_SAMPLE, len(named)))
    fresh = [f"{_FRESH + connection}-{number}" for number in range(4) for connection in range(SENT_AGAIN_OVER)]
    ledger.note_sent(fresh)
    try:
        await send_again(port, unsettled + known, ledger)
        await send_again(port, fresh, ledger)
    except* Broken:
        scene.failures.append("the second life broke off")
    await scene.collector.restore()
    await scene.gateway.restore()
    expected = spans_of(scene)
    missing = await scene.collector.wait_for(set(expected), _EXPORT_S)
    lost = (await stats_of(observer))["lost"]
    if scene.spoilt and lost["journal_damaged"] < 1:
        scene.failures.append("a damaged line was not counted in lost.journal_damaged")
    unposted = await scene.gateway.wait_results(diagnoses(scene.data), _POSTED_S)
    scene.failures += [f"a diagnosis was not posted: {text[:80]}" for text in unposted]
    scene.failures += [f"a post came again with another body: {key}" for key in scene.gateway.changed_keys]
    evicted = lost["export_evicted"] + lost["export_failed"]
    return sorted(expected[span] for span in missing) if len(missing) > evicted else []


async def stats_of(observer: Process) -> dict[str, dict[str, int]]:
    """The current `/stats`."""
    http = HttpConnection(_port(observer))
    try:
        _, answer = await http.request("GET", "/stats")
    finally:
        http.drop()
    found: dict[str, dict[str, int]] = json.loads(answer)
    return found


def _port(observer: Process) -> int:
    return int(observer.url.rpartition(":")[2])
