"""The load: many connections that post events with unique ids, and a ledger of the answers."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from tests.crash.events import event_of
from tests.crash.http_client import Broken, HttpConnection

CONNECTIONS = 64
SENT_AGAIN_OVER = 16
"""Number of connections that `send_again` uses."""
_REST_S = 0.02  # pause after a refusal: shorter than `Retry-After`, to hit the fault again
_MOST_IN_BATCH = 20
_MOST_ATTEMPTS = 500  # at least ten seconds


class Ledger:
    """Records every id sent and its outcome. Ids are `<connection>-<number>`, with ascending numbers."""

    def __init__(self) -> None:
        self.sent: dict[str, bool] = {}  # id → whether it was sent as the event's id (named)
        self.acknowledged: dict[str, None] = {}
        self.refused: set[str] = set()  # answered with 503 at least once
        self._unread: Counter[str] = Counter()  # id → attempts without an answer, or with one that was not read
        self.statuses: Counter[int] = Counter()
        self.surprises: list[str] = []  # answers that are neither a 200 nor a refusal
        self._changed = asyncio.Condition()

    @property
    def unsettled(self) -> list[str]:
        """Named ids that were never acknowledged: a sender would send them again."""
        return [one for one, named in self.sent.items() if named and one not in self.acknowledged]

    def may_be_refused(self, event_id: str) -> bool:
        """Whether an attempt was answered with 503, or its answer is unknown."""
        return event_id in self.refused or self._unread[event_id] > 0

    def note_attempt(self, ids: Sequence[str]) -> None:
        """Note that a request with *ids* is sent."""
        self._unread.update(ids)

    def note_sent(self, ids: Sequence[str], *, named: bool = True) -> None:
        """Register *ids* before they are first sent."""
        for event_id in ids:
            self.sent[event_id] = named

    async def note_answer(self, ids: Sequence[str], status: int, answer: bytes) -> None:
        """Note the answer to a request with *ids*."""
        self._unread.subtract(ids)
        self.statuses[status] += 1
        if status == 200:
            rejected = {item["index"]: item["error"] for item in json.loads(answer).get("rejected", ())}
            for index, event_id in enumerate(ids):
                if index not in rejected:
                    self.acknowledged[event_id] = None
                elif rejected[index].startswith("retry:"):
                    self.refused.add(event_id)
                else:
                    self.surprises.append(f"{event_id} rejected: {rejected[index]}")
        elif status == 503:
            self.refused.update(ids)
        else:
            self.surprises.append(f"{ids[0]} answered with {status}: {answer[:200]!r}")
        async with self._changed:
            self._changed.notify_all()

    async def wait_acknowledged(self, count: int, most_s: float) -> bool:
        """Wait for *count* further acknowledged events; False if *most_s* seconds pass first."""
        goal = len(self.acknowledged) + count
        try:
            async with asyncio.timeout(most_s), self._changed:
                await self._changed.wait_for(lambda: len(self.acknowledged) >= goal)
        except TimeoutError:
            return False
        return True


class Sender:
    """One connection's stream of events: single ones and batches, some sent again, some without an answer."""

    def __init__(self, port: int, number: int, ledger: Ledger, random: Random) -> None:
        self._http = HttpConnection(port)
        self._number = number
        self._ledger = ledger
        self._random = random
        self._count = 0

    async def run(self) -> None:
        """Post until the observer is gone."""
        try:
            while True:
                await self._step()
        except Broken:
            pass
        finally:
            self._http.drop()

    async def _step(self) -> None:
        dice = self._random.random()
        if dice < 0.04:
            await self._batch()
        elif dice < 0.06:
            await self._lost_answer()
        elif dice < 0.08:
            await self._again()
        elif dice < 0.16:
            await self._one(named=False)
        else:
            await self._one(named=True)

    def _next_id(self) -> str:
        self._count += 1
        return f"{self._number}-{self._count - 1}"

    async def _one(self, *, named: bool) -> None:
        event_id = self._next_id()
        self._ledger.note_sent([event_id], named=named)
        while await self._post(event_id, named=named) == 503:
            await asyncio.sleep(_REST_S)
            if not named or self._random.random() < 0.5:
                return  # without a name it must not be sent again; otherwise some senders give up

    async def _batch(self) -> None:
        ids = [self._next_id() for _ in range(self._random.randint(1, _MOST_IN_BATCH))]
        self._ledger.note_sent(ids)
        events = [event_of(event_id) for event_id in ids]
        body = dumps(events) if self._random.random() < 0.5 else b"\n".join(map(dumps, events))
        self._ledger.note_attempt(ids)
        status, answer = await self._http.request("POST", "/events", body)
        await self._ledger.note_answer(ids, status, answer)

    async def _lost_answer(self) -> None:
        event_id = self._next_id()
        self._ledger.note_sent([event_id])
        self._ledger.note_attempt([event_id])
        await self._http.send("POST", "/event", dumps(event_of(event_id)))
        await asyncio.sleep(self._random.random() * 0.01)
        self._http.drop()
        await self._post(event_id)

    async def _again(self) -> None:
        if self._count == 0:
            return
        event_id = f"{self._number}-{self._count - 1}"
        if self._ledger.sent[event_id] and event_id in self._ledger.acknowledged:
            await self._post(event_id)

    async def _post(self, event_id: str, *, named: bool = True) -> int:
        self._ledger.note_attempt([event_id])
        status, answer = await post(self._http, event_id, named=named)
        await self._ledger.note_answer([event_id], status, answer)
        return status


async def post(http: HttpConnection, event_id: str, *, named: bool = True) -> tuple[int, bytes]:
    """Post one event; every third named one has its id only in the `Idempotency-Key` header."""
    by_header = named and hash_of(event_id) % 3 == 0
    headers = f'Idempotency-Key: "{event_id}"\r\n' if by_header else ""
    return await http.request("POST", "/event", dumps(event_of(event_id, named=named and not by_header)), headers)


def hash_of(event_id: str) -> int:
    """A hash that is the same in every process."""
    return sum(event_id.encode())


def dumps(value: Any) -> bytes:
    """*value* as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False).encode()


async def send_again(port: int, ids: Sequence[str], ledger: Ledger) -> None:
    """Post named events one at a time over each of `SENT_AGAIN_OVER` connections. Raises a group of Broken."""

    async def sender(own: Sequence[str]) -> None:
        http = HttpConnection(port)
        try:
            for event_id in own:
                status, answer = await _insisted(http, event_id, ledger)
                if status == 503:  # other statuses are noted by the ledger
                    ledger.surprises.append(f"{event_id} sent again: {status} {answer[:200]!r}")
        finally:
            http.drop()

    async with asyncio.TaskGroup() as tasks:
        for start in range(SENT_AGAIN_OVER):
            tasks.create_task(sender(ids[start::SENT_AGAIN_OVER]))


async def _insisted(http: HttpConnection, event_id: str, ledger: Ledger) -> tuple[int, bytes]:
    """Post until the answer is not 503, as a sender does: without a fault, the machine's own disk may still stall."""
    status, answer = 503, b""
    for _ in range(_MOST_ATTEMPTS):
        ledger.note_attempt([event_id])
        status, answer = await post(http, event_id)
        await ledger.note_answer([event_id], status, answer)
        if status != 503:
            break
        await asyncio.sleep(_REST_S)
    return status, answer
