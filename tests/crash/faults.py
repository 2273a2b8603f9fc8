"""The faults, each a short script: it waits for load, strikes, and says how the first life ends.

What happens between the two lives of a round (a torn tail, a damaged line, a state file that is gone) is a fault too.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from tests.crash.disk import FaultLayer, SmallDisk, shim
from tests.crash.http_client import Broken, HttpConnection
from tests.crash.journal import segments, whole_lines
from tests.crash.load import Ledger
from tests.crash.servers import Collector, CutServer, Gateway
from tests.processes import Process

COMMIT_TIMEOUT_S = 0.5
"""How long requests wait for the journal in these runs: short, so that stalls exceed it."""
_MOST_WAIT_S = 3.0
_HEALTH_S = 5.0  # generous: only a door that hangs as long as the disk is a failure


@dataclass
class Scene:
    """What a fault can act on, and what it reports to the oracle."""

    data: Path
    random: Random
    ledger: Ledger
    collector: Collector
    gateway: Gateway
    layer: FaultLayer | None = None
    disk: SmallDisk | None = None
    fsync: str = "1"
    ending: str = "SIGKILL"
    struck: list[str] = field(default_factory=list)  # descriptions of what was done
    spoilt: set[str] = field(default_factory=set)  # acknowledged ids whose lines the fault damaged
    spoilt_bytes: bytes = b""
    torn: bool = False
    unsynced: bool = False  # a sync failed under `OBSERVER_FSYNC=always`: refused events may be journalled twice
    failures: list[str] = field(default_factory=list)

    async def load(self, least: int, most: int) -> None:
        """Wait until between *least* and *most* further events are acknowledged."""
        await self.ledger.wait_acknowledged(self.random.randint(least, most), _MOST_WAIT_S)

    async def rest(self, most_s: float) -> None:
        """Wait up to *most_s* seconds while a fault lasts."""
        await asyncio.sleep(self.random.random() * most_s)


Strike = Callable[[Scene, Process], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A named fault. *strike* acts on the first process; *between* on the folder, before the second one starts."""

    name: str
    strike: Strike
    needs: Literal["", "shim", "disk"] = ""
    between: Callable[[Scene], None] | None = None
    false_starts: int = 0  # processes between the two that are killed while they start
    keeps_cursor: bool = True  # then only spans in flight may be exported again
    ending: Literal["", "SIGKILL", "SIGTERM"] = ""  # how the first process ends; empty: the seed chooses

    def missing(self) -> str:
        """Why this machine cannot inject it; "" if it can."""
        if self.needs == "shim" and shim() is None:
            return "no C compiler for the fault layer"
        return SmallDisk.refused() if self.needs == "disk" else ""


async def _nothing(scene: Scene, _observer: Process) -> None:
    await scene.load(64, 3000)


async def _freeze(scene: Scene, observer: Process) -> None:
    await scene.load(64, 1500)
    observer.send(signal.SIGSTOP)
    await scene.rest(0.5)
    if scene.random.random() < 0.7:
        observer.send(signal.SIGCONT)
        await scene.load(1, 1000)
    else:
        scene.struck.append("killed while stopped")
        scene.ending = "SIGKILL"


async def _fill_disk(scene: Scene, observer: Process) -> None:
    assert scene.disk is not None
    await scene.load(64, 1500)
    await asyncio.to_thread(scene.disk.fill)
    await scene.rest(0.4)
    await _is_healthy(scene, observer)
    if scene.random.random() < 0.6:
        scene.disk.free()
        await _recovers(scene)
    else:
        scene.struck.append("full to the end")


def _layered(*faults: str, recovers: bool = True) -> Strike:
    async def strike(scene: Scene, observer: Process) -> None:
        assert scene.layer is not None
        await scene.load(64, 1500)
        fault = scene.random.choice(faults)
        scene.struck.append(fault)
        scene.unsynced = fault == "sync" and scene.fsync == "always"
        scene.layer.set(fault)
        await scene.rest(0.5)
        await _is_healthy(scene, observer)
        if scene.random.random() < 0.7:
            scene.layer.clear()
            if recovers:
                await _recovers(scene)
        else:
            scene.struck.append("to the end")

    return strike


def _cut(server_of: Callable[[Scene], CutServer]) -> Strike:
    async def strike(scene: Scene, _observer: Process) -> None:
        server = server_of(scene)
        await scene.load(1, 500)
        await server.cut()
        await scene.load(64, 1500)
        if scene.random.random() < 0.5:
            await server.restore()
            await scene.load(1, 500)
        else:
            scene.struck.append("away at the restart")

    return strike


async def _recovers(scene: Scene) -> None:
    """Check that the observer accepts events again, now that the disk works."""
    if not await scene.ledger.wait_acknowledged(scene.random.randint(1, 500), 4 * _MOST_WAIT_S):
        scene.failures.append("nothing is acknowledged though the disk works again")


async def _is_healthy(scene: Scene, observer: Process) -> None:
    """Check that `/health` answers although the disk fails."""
    http = HttpConnection(int(observer.url.rpartition(":")[2]))
    try:
        async with asyncio.timeout(_HEALTH_S):
            status, _ = await http.request("GET", "/health")
    except (TimeoutError, Broken) as exc:
        scene.failures.append(f"/health did not answer while the disk failed: {exc!r}")
    else:
        if status != 200:
            scene.failures.append(f"/health answered {status} while the disk failed")
    finally:
        http.drop()


def _tear_tail(scene: Scene) -> None:
    """Append a torn write to the journal: part of a line, possibly ending inside a character, or zeros."""
    line = json.dumps({"timestamp": "2026-01-01T00:00:00.000Z", "error": "Zoë 日本語 \U0001f600"}, ensure_ascii=False)
    cuts = [line.encode()[: scene.random.randint(1, len(line))], line.encode()[:-5], b"\x00" * 700, b'{"a":"\xf0\x9f']
    cut = scene.random.randrange(len(cuts))
    scene.struck.append(("part of a line", "inside a character", "zeros", "half a character")[cut])
    with (scene.data / "ops.jsonl").open("ab") as file:
        file.write(cuts[cut])
    scene.torn = True


def _damage_line(scene: Scene) -> None:
    """Flip a bit of an acknowledged line, and delete the state database, so that every line is read at the start."""
    lines = [(path, at, line) for path in segments(scene.data) for at, line in whole_lines(path)]
    path, at, line = scene.random.choice(lines[: max(1, len(lines) - 1)])
    scene.spoilt.add(json.loads(line)["extra"]["id"])
    spoilt = bytearray(line)
    spoilt[scene.random.randrange(1, len(line) - 1)] ^= 0x10
    scene.spoilt_bytes = bytes(spoilt)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(spoilt)
    _lose_state(scene)


def _lose_state(scene: Scene) -> None:
    for path in scene.data.glob("state.db*"):
        path.unlink()


def _damage_state(scene: Scene) -> None:
    path = scene.data / "state.db"
    if path.exists():
        size = max(path.stat().st_size, 4096)
        path.write_bytes(scene.random.randbytes(size))


def _damage_cursor(scene: Scene) -> None:
    path = scene.data / "export.cursor.json"
    text = path.read_bytes()
    path.write_bytes(text[: scene.random.randrange(len(text))])


FAULTS = (
    Fault("kill", _nothing, ending="SIGKILL"),
    Fault("disk-full", _fill_disk, needs="disk"),
    Fault("torn-tail", _nothing, between=_tear_tail),
    Fault("write-error", _layered("eio", "enospc", "torn", "stuck"), needs="shim"),
    Fault("collector-cut", _cut(lambda scene: scene.collector)),
    Fault("stall", _layered("stall 0.2", "stall 1.2", "syncstall 0.4", "syncstall 1.2"), needs="shim"),
    Fault("term", _nothing, ending="SIGTERM"),
    Fault("freeze", _freeze),
    Fault("damaged-line", _nothing, between=_damage_line),
    Fault("gateway-cut", _cut(lambda scene: scene.gateway)),
    Fault("short-write", _layered("short"), needs="shim"),
    Fault("sync-error", _layered("sync"), needs="shim"),
    Fault("start-killed", _nothing, false_starts=3),
    Fault("state-lost", _nothing, between=_lose_state),
    Fault("state-damaged", _nothing, between=_damage_state),
    Fault("cursor-damaged", _nothing, between=_damage_cursor, keeps_cursor=False),
)
"""A round's seed modulo their number selects the fault, so successive seeds cover all of them."""
