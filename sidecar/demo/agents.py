"""The demo's agents: they fill shifts through the observer, retry naively, and post the outcomes to its HTTP door.

Calls go through `ObservedGateway.observed`; outcomes to `POST /event` and `/events`. A seeded random source decides
what an agent does next; the gateway decides what comes of it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final, Protocol

from sidecar.demo.staffing_rules import CHANNELS, CITIES, ROLES, UNKNOWN_ROLES
from sidecar.model import ObservedOp

_EVENT_KINDS: Final = ("baseline_fill", "recurring", "expansion", "emergency")
_CITY_WEIGHTS: Final = (4, 3, 4, 3, 3, 3, 3, 2, 2)
_CALLS_A_JOB: Final = 2  # the second is the naive retry
_PAUSE_S: Final = (0.15, 0.65)
_BATCH: Final = 5
_FILL: Final = "/tools/fill_shift"
_CHOSEN: Final = ("channel", "certified")  # arguments that an agent may choose; the others describe the job


class Caller(Protocol):
    """The observer's wrapper around gateway calls."""

    async def observed(self, endpoint: str, body: Any, description: str, **fields: Any) -> tuple[Any, ObservedOp]:
        """The gateway's answer, and the op."""
        ...


class EventDoor(Protocol):
    """The observer's HTTP door."""

    async def post(self, event: dict[str, Any]) -> None:
        """`POST /event`."""
        ...

    async def post_batch(self, events: list[dict[str, Any]]) -> None:
        """`POST /events`."""
        ...

    async def advice(self, params: dict[str, str]) -> dict[str, Any]:
        """`GET /advice`; empty if the observer cannot answer."""
        ...


@dataclass(frozen=True, slots=True)
class Job:
    """A request to find workers."""

    task: str
    staffer_id: str
    event_kind: str
    role: str
    city: str
    state: str
    count: int
    certified: bool
    channel: str

    @property
    def sig_hash(self) -> str:
        """A hash that jobs of the same role and place share, whoever does them."""
        return hashlib.sha256(f"{self.role}|{self.city}|{self.state}".encode()).hexdigest()[:16]

    def body(self) -> dict[str, Any]:
        """The request body for the gateway's tools."""
        return {
            "role": self.role,
            "city": self.city,
            "state": self.state,
            "count": self.count,
            "certified": self.certified,
            "channel": self.channel,
        }

    def fields(self) -> dict[str, Any]:
        """The fields of each call's op that are not in the body."""
        return {
            "task": self.task,
            "staffer_id": self.staffer_id,
            "sig_hash": self.sig_hash,
            "event_kind": self.event_kind,
            "role": self.role,
            "city": self.city,
            "state": self.state,
            "count": self.count,
        }


class Agent:
    """Does one job after the other until *stopping* is set.

    *on_failure* is called for every failed call. With *pools_events* outcomes are posted five at a time.
    """

    def __init__(
        self,
        staffer_id: str,
        gateway: Caller,
        door: EventDoor,
        *,
        on_failure: Callable[[Job, str], None],
        dice: Random,
        stopping: asyncio.Event,
        pools_events: bool = False,
    ) -> None:
        self._staffer_id = staffer_id
        self._gateway = gateway
        self._door = door
        self._on_failure = on_failure
        self._dice = dice
        self._stopping = stopping
        self._pools_events = pools_events
        self._pool: list[dict[str, Any]] = []
        self.jobs = 0

    async def run(self) -> None:
        """Do jobs, with pauses."""
        while not self._stopping.is_set():
            await self.work(self._next_job())
            await self._pause()
        if self._pool:
            await self._door.post_batch(self._pool)

    async def work(self, job: Job) -> None:
        """Do one job: look up, fill, retry, perhaps rescue, and report the outcome to the observer."""
        dice = self._dice
        if dice.random() < 0.12:
            await self._plan(job)
        looks = {"search_workers": 0.5, "match": 0.35, "ask": 0.2}
        for tool, chance in looks.items():
            if dice.random() < chance and not self._stopping.is_set():
                await self._call(tool, job)
        job, exposure_id = await self._take_advice(job)
        op = await self._call("fill_shift", job, exposure_id)
        calls = 1
        while not op.success and calls < _CALLS_A_JOB and not self._stopping.is_set():
            op = await self._call("fill_shift", job, exposure_id)
            calls += 1
        rescued = None
        if not op.success and dice.random() < 0.4 and not self._stopping.is_set():
            rescued = await self._call("fill_shift", replace(job, count=1, certified=True), exposure_id)
        await self._post_outcome(job, op, rescued)

    async def _take_advice(self, job: Job) -> tuple[Job, str | None]:
        """*job* changed as the observer advises, as far as an agent may choose, and the exposure's id."""
        facts = {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in job.body().items()
        }
        given = ",".join(name for name in facts if name not in _CHOSEN)
        advice = await self._door.advice({**facts, "endpoint": _FILL, "task": job.task, "given": given})
        for item in advice.get("advice", []):
            changes = {name: value for name, value in item["set"].items() if name in _CHOSEN}
            if isinstance(changes.get("channel", ""), str) and isinstance(changes.get("certified", True), bool):
                job = replace(job, **changes)
        return job, advice.get("exposure_id")

    async def _call(self, tool: str, job: Job, exposure_id: str | None = None) -> ObservedOp:
        words = f"{tool} {job.role} ×{job.count} in {job.city}, {job.state}"
        body = job.body() if tool != "ask" else {**job.body(), "question": f"How many can work in {job.city}?"}
        seen = {"exposure_id": exposure_id} if exposure_id is not None else {}
        _, op = await self._gateway.observed(f"/tools/{tool}", body, words, **job.fields(), **seen)
        if op.error is not None:
            self._on_failure(job, op.error)
        return op

    async def _post_outcome(self, job: Job, op: ObservedOp, rescued: ObservedOp | None) -> None:
        """Post the outcome, as a child of the call that led to it."""
        last = rescued or op
        event: dict[str, Any] = {
            **job.fields(),
            "event_id": f"{job.task}-outcome",
            "success": last.success,
            "duration_ms": op.duration_ms + (rescued.duration_ms if rescued else 0),
            "rescue_attempted": rescued is not None,
            "rescue_succeeded": rescued is not None and rescued.success,
            "trace_id": last.trace_id,
            "parent_span_id": last.span_id,
            "certified": job.certified,
        }
        if last.error is not None:
            event |= {"error": last.error, "error_type": last.error_type}
        if not self._pools_events:
            await self._door.post(event)
            return
        self._pool.append(event)
        if len(self._pool) == _BATCH:
            pool, self._pool = self._pool, []
            await self._door.post_batch(pool)

    async def _plan(self, job: Job) -> None:
        """Post a model call, as Langfuse would report it."""
        tokens = self._dice.randrange(400, 9000)
        event: dict[str, Any] = {
            "source": "langfuse",
            "endpoint": "langfuse:plan_fill",
            "input_summary": f"generation: plan {job.role} ×{job.count} in {job.city}",
            "event_kind": "generation",
            "success": tokens <= 8192,
            "duration_ms": round(self._dice.uniform(300, 2500)),
            "output_summary": f"{tokens} tokens",
            "task": job.task,
            "staffer_id": job.staffer_id,
            "event_id": f"{job.task}-plan",
            "tokens": tokens,
        }
        if tokens > 8192:
            error = f"prompt of {tokens} tokens exceeds the context of 8192"
            event |= {"error": error, "error_type": "context_length_exceeded"}
        await self._door.post(event)

    def _next_job(self) -> Job:
        dice = self._dice
        self.jobs += 1
        city = dice.choices(CITIES, _CITY_WEIGHTS)[0]
        return Job(
            task=f"{self._staffer_id}-{self.jobs}-{dice.getrandbits(32):08x}",
            staffer_id=self._staffer_id,
            event_kind=dice.choice(_EVENT_KINDS),
            role=dice.choice(ROLES if dice.random() < 0.96 else UNKNOWN_ROLES),
            city=city.name,
            state=city.state,
            count=dice.randrange(7, 10) if dice.random() < 0.06 else dice.randrange(1, 5),
            certified=dice.random() < 0.88,
            channel=dice.choice(CHANNELS),
        )

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._dice.uniform(*_PAUSE_S)):
                await self._stopping.wait()
        except TimeoutError:
            pass
