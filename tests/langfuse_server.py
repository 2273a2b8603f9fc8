"""A stand-in Langfuse server, written from its public API description: accepts SDK data, and serves it in pages.

`events`, `spans` and `scores` count what it accepted by id, so that duplicates show. It refuses, stays silent, lags and
limits as a test configures; a new one on the same `store` is a restarted server.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

KEYS = ("pk-lf-there", "sk-lf-there")
FORWARD = {
    "LANGFUSE_FORWARD_PUBLIC_KEY": KEYS[0],
    "LANGFUSE_FORWARD_SECRET_KEY": KEYS[1],
}
PULL = {"LANGFUSE_PULL_PUBLIC_KEY": KEYS[0], "LANGFUSE_PULL_SECRET_KEY": KEYS[1]}
_MOST_OBSERVATIONS, _MOST_SCORES = 1000, 100


class Store:
    """What a server keeps across restarts: how often it accepted each id, and the rows that it serves."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.spans: Counter[str] = Counter()
        self.scores: Counter[str] = Counter()
        self.observations: list[dict[str, Any]] = []
        self.given_scores: list[dict[str, Any]] = []


Said = tuple[int, Any, dict[str, str]]


class LangfuseServer:
    """One run of the server. *refuses* may answer a request (method, path) instead of it; *page* limits each page.

    `asked` has every request as (method, path, query, headers).
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.url = ""
        self.page = 0
        self.refuses: Callable[[str, str], Said | None] = lambda _method, _path: None
        self.silent = False
        self.seen: Callable[[str, bytes], None] = lambda _path, _body: None
        self.hidden: Callable[[dict[str, Any]], bool] = lambda _row: False
        self.asked: list[tuple[str, str, dict[str, list[str]], dict[str, str]]] = []
        self.changed = asyncio.Condition()
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def until(self, fits: Callable[[], bool]) -> None:
        """Wait until *fits* is true; it is evaluated after each request."""
        async with self.changed:
            await asyncio.wait_for(self.changed.wait_for(fits), 30)

    # --- HTTP ----------------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, target, _ = head[0].split(" ")
        if self.silent:
            await self._ending.wait()
            return False
        status, said, more = self._said(method, target, headers, body)
        content = b"" if said is None else json.dumps(said).encode()
        more = {"content-type": "application/json", **more}
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in more.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + content)
        await writer.drain()
        async with self.changed:
            self.changed.notify_all()
        return True

    def _said(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Said:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        self.asked.append((method, parts.path, query, headers))
        refusal = self.refuses(method, parts.path)
        if refusal is not None:
            return refusal
        if headers.get("authorization") != "Basic " + base64.b64encode(":".join(KEYS).encode()).decode():
            return 401, {"message": "Invalid credentials"}, {}
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.seen(parts.path, body)
        return self._answer(method, parts.path, query, body)

    def _answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> Said:
        match method, path:
            case "POST", "/api/public/ingestion":
                return self._ingested(json.loads(body)["batch"])
            case "POST", "/api/public/scores":
                return self._scored(json.loads(body))
            case "POST", "/api/public/otel/v1/traces":
                return self._traced(body)
            case "GET", "/api/public/v2/observations":
                return self._page(self.store.observations, "startTime", query, "StartTime", _MOST_OBSERVATIONS)
            case "GET", "/api/public/v3/scores":
                return self._page(self.store.given_scores, "timestamp", query, "Timestamp", _MOST_SCORES)
            case "GET", prompt if prompt.startswith("/api/public/v2/prompts/"):
                return 200, {"name": prompt.rpartition("/")[2], "prompt": "Be kind.", "type": "text", "version": 3}, {}
            case "GET", "/api/public/projects":
                return 200, {"data": [{"id": "theirs", "name": "theirs"}]}, {}
        return 404, {"message": "not here"}, {}

    # --- writing -------------------------------------------------------------------------------------------------

    def _ingested(self, batch: list[dict[str, Any]]) -> Said:
        errors = []
        for event in batch:
            if not isinstance(event.get("body"), dict):
                errors.append({"id": event.get("id", ""), "status": 400, "message": "Invalid request data"})
                continue
            self.store.events[event["id"]] += 1
            if event["type"] == "score-create":
                self.store.scores[event["body"].get("id", event["id"])] += 1
        good = [{"id": event["id"], "status": 201} for event in batch if isinstance(event.get("body"), dict)]
        return 207, {"successes": good, "errors": errors}, {}

    def _scored(self, said: Any) -> Said:
        for score in said if isinstance(said, list) else [said]:
            self.store.scores[score["id"]] += 1
        return 202, {"message": "Accepted"}, {}

    def _traced(self, body: bytes) -> Said:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.store.spans[span.span_id.hex()] += 1
        return 200, {}, {}

    # --- reading -------------------------------------------------------------------------------------------------

    def _page(self, rows: list[dict[str, Any]], field: str, query: dict[str, list[str]], name: str, most: int) -> Said:
        """A page of rows, newest first as in Langfuse; the cursor holds the window and the number of rows before."""
        limit = int(query.get("limit", ["50"])[0])
        if limit > most:
            return 400, {"message": f"limit must be at most {most}"}, {}
        since, until = query[f"from{name}"][0], query.get(f"to{name}", ["9"])[0]
        cursor = query.get("cursor", [""])[0]
        window = f"{since}|{until}"
        at = 0
        if cursor:
            said = base64.urlsafe_b64decode(cursor).decode().rsplit("|", 1)
            if said[0] != window:
                return 400, {"message": "Invalid cursor"}, {}
            at = int(said[1])
        shown = [row for row in rows if since <= row[field] < until and not self.hidden(row)]
        shown.sort(key=lambda row: (row[field], row["id"]), reverse=True)
        limit = min(limit, self.page or limit)
        if "io" not in query.get("fields", ["io"])[0]:
            shown = [{key: value for key, value in row.items() if key not in ("input", "output")} for row in shown]
        meta: dict[str, Any] = {"limit": limit}
        if at + limit < len(shown):
            meta["cursor"] = base64.urlsafe_b64encode(f"{window}|{at + limit}".encode()).decode()
        return 200, {"data": shown[at : at + limit], "meta": meta}, {}

    async def end(self) -> None:
        self._ending.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def langfuse_server(store: Store | None = None, port: int = 0) -> AsyncIterator[LangfuseServer]:
    """A server on *port*, for the length of the block."""
    life = LangfuseServer(store or Store())
    server = await asyncio.start_server(life.serve, "127.0.0.1", port, limit=2**20)
    life.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield life
    finally:
        server.close()
        await life.end()
        await server.wait_closed()


def observation(number: int, start: str, **fields: Any) -> dict[str, Any]:
    """A row of observations v2, finished a second after *start*."""
    return {
        "id": f"{number:016x}",
        "traceId": f"{number:032x}",
        "projectId": "there",
        "type": "TOOL",
        "name": "find_workers",
        "parentObservationId": None,
        "startTime": start,
        "endTime": start.replace(".000Z", ".900Z"),
        "level": "DEFAULT",
        "statusMessage": None,
        "input": json.dumps({"count": number}),
        "output": "found",
        "userId": "ann",
        "sessionId": "shift-7",
        **fields,
    }


def given_score(number: int, at: str, of: int, **fields: Any) -> dict[str, Any]:
    """A row of scores v3, on the observation with the number *of*."""
    return {
        "id": f"given-{number}",
        "projectId": "there",
        "name": "correct",
        "value": False,
        "dataType": "BOOLEAN",
        "source": "ANNOTATION",
        "environment": "default",
        "timestamp": at,
        "createdAt": at,
        "updatedAt": at,
        "comment": "no such workers",
        "subject": {"kind": "observation", "id": f"{of:016x}", "traceId": f"{of:032x}"},
        **fields,
    }
