"""The demo's HTTP client of the observer: posts events, reads ops, stats, incidents and playbooks."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import msgspec
import structlog

from sidecar.demo.counted_ops import CountedOps
from sidecar.demo.findings import Findings
from sidecar.demo.lessons import Lessons
from sidecar.model import Incident, ObservedOp
from sidecar.model_learning import Measured, PlaybookView

log = structlog.get_logger(__name__)

_LAST_OPS: Final = 50
_RECONNECT_S: Final = 0.5


class _Advice(msgspec.Struct):
    measured: Measured | None = None


class _Stats(msgspec.Struct):
    cycle: int = 0
    operations_in_all: int = 0
    advice: _Advice = msgspec.field(default_factory=_Advice)


class _Incidents(msgspec.Struct):
    incidents: list[Incident]


class _Playbooks(msgspec.Struct):
    playbooks: list[PlaybookView]


class _Missed(msgspec.Struct):
    missed: int


@dataclass
class Seen:
    """The demo's view of the observer so far. Counts start with the demo and are those of operations.

    *delivered* are the records that came through the stream, of which several may be about the same operation.
    *recorded* is the observer's own count of operations, at the last look, and *measured* the effect of all its advice;
    *playbooks* are the summaries of successes.
    """

    delivered: int = 0
    recorded: int = 0
    missed: int = 0
    counted: CountedOps = field(default_factory=CountedOps)
    last_ops: deque[ObservedOp] = field(default_factory=lambda: deque(maxlen=_LAST_OPS))
    cycle: int = 0
    recorded_before: int | None = None
    incidents: list[Incident] = field(default_factory=list)
    playbooks: list[PlaybookView] = field(default_factory=list)
    measured: Measured | None = None
    lessons: Lessons = field(default_factory=Lessons)
    findings: Findings = field(default_factory=Findings)
    before: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Store the incidents' present counts, which come from an earlier run in the same folder."""
        self.before = {incident.fingerprint: incident.count for incident in self.incidents}

    @property
    def ops(self) -> int:
        """The operations so far, with those that the stream did not deliver."""
        return max(self.counted.ops, self.recorded)

    @property
    def failures(self) -> int:
        """The failed operations among those delivered."""
        return self.counted.failures

    @property
    def by_source(self) -> Counter[str]:
        """The operations delivered, by source."""
        return self.counted.by_source

    def add(self, op: ObservedOp) -> None:
        """Count one op."""
        self.delivered += 1
        self.counted.add(op)
        self.last_ops.append(op)


class ObserverDoors:
    """The observer's doors over *client*, whose base address is the observer's."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.seen = Seen()
        self._began = asyncio.get_running_loop().time()
        self.not_taken = 0

    async def post(self, event: dict[str, Any]) -> None:
        """`POST /event`; refused events are counted and logged."""
        await self._post("/event", msgspec.json.encode(event))

    async def post_batch(self, events: list[dict[str, Any]]) -> None:
        """`POST /events`, one event per line."""
        content = b"\n".join(msgspec.json.encode(event) for event in events)
        await self._post("/events", content)

    async def advice(self, params: dict[str, str]) -> dict[str, Any]:
        """`GET /advice`; empty if the observer cannot answer, so that the agent goes on."""
        try:
            response = await self._client.get("/advice", params=params)
            response.raise_for_status()
            answer: dict[str, Any] = msgspec.json.decode(response.content, type=dict[str, Any])
        except (httpx.HTTPError, msgspec.MsgspecError) as exc:
            log.warning("demo.no_advice", error=str(exc) or type(exc).__name__)
            return {}
        return answer

    async def follow(self, connected: asyncio.Event) -> None:
        """Count the ops from `GET /ops/stream` until cancelled; *connected* is set once data arrives."""
        while True:
            try:
                async with self._client.stream("GET", "/ops/stream", timeout=None) as response:
                    response.raise_for_status()
                    async for line in response.aiter_lines():
                        connected.set()
                        self._take(line)
            except (httpx.HTTPError, msgspec.MsgspecError) as exc:
                log.warning("demo.stream_lost", error=str(exc) or type(exc).__name__)
            await asyncio.sleep(_RECONNECT_S)

    async def look(self) -> None:
        """Read `/stats`, `/incidents` and `/playbooks` once; what cannot be read stays unchanged."""
        try:
            stats = msgspec.json.decode(await self._get("/stats"), type=_Stats)
            self.seen.cycle = stats.cycle
            self.seen.measured = stats.advice.measured
            if self.seen.recorded_before is None:
                self.seen.recorded_before = stats.operations_in_all
            self.seen.recorded = stats.operations_in_all - self.seen.recorded_before
            self.seen.incidents = msgspec.json.decode(await self._get("/incidents"), type=_Incidents).incidents
            self.seen.findings.take(self.seen.incidents)
            found = msgspec.json.decode(await self._get("/playbooks"), type=_Playbooks).playbooks
            self.seen.lessons.take(found, asyncio.get_running_loop().time() - self._began)
            self.seen.playbooks = [each for each in found if each.author == "successes"]
        except (httpx.HTTPError, msgspec.MsgspecError) as exc:
            log.warning("demo.look_failed", error=str(exc) or type(exc).__name__)

    def _take(self, line: str) -> None:
        if not line.startswith("data:"):
            return
        data = line[5:].strip()
        if data.startswith('{"missed":'):
            self.seen.missed += msgspec.json.decode(data, type=_Missed).missed
        else:
            self.seen.add(msgspec.json.decode(data, type=ObservedOp))

    async def _get(self, path: str) -> bytes:
        response = await self._client.get(path)
        response.raise_for_status()
        return response.content

    async def _post(self, path: str, content: bytes) -> None:
        try:
            response = await self._client.post(path, content=content)
            response.raise_for_status()
        except httpx.HTTPError as exc:
            self.not_taken += 1
            log.warning("demo.event_not_taken", path=path, error=str(exc) or type(exc).__name__)
