"""Runs the whole observer on free ports of 127.0.0.1, with stand-in servers for gateway and model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from sidecar.pipeline.observer import Observer
from sidecar.settings import Settings
from sidecar.store.journal_file import AppendFile

DEAD = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


def settings(tmp_path: Path, **env: str) -> Settings:
    """Settings for a test: free ports, data under *tmp_path*, no cycles by timer; *env* overrides them."""
    return Settings.from_env(
        {
            "OBSERVER_PORT": "0",
            "OBSERVER_HEALTH_PORT": "0",
            "OBSERVER_GRPC_PORT": "-1",
            "OBSERVER_PROXY_PORT": "-1",
            "OBSERVER_DATA_DIR": str(tmp_path / "data"),
            "OBSERVER_CYCLE": "86400",
            "OBSERVER_FSYNC": "never",
            "OBSERVER_GRACE": "4",
            "OVERSEER_CORRECTIONS_PATH": str(tmp_path / "corrections.jsonl"),
            "GATEWAY_URL": DEAD,
            "LAKEHOUSE_URL": DEAD,
            **env,
        }
    )


@asynccontextmanager
async def observer(
    tmp_path: Path, *, open_file: Any = AppendFile, draw: Any = None, **env: str
) -> AsyncIterator[Observer]:
    """A running observer; `await running.cycle.run_once()` runs one cycle.

    A test that counts how coins fell hands over *draw*; by the system's chance they may all fall the same way.
    """
    async with Observer(settings(tmp_path, **env), env={}, open_file=open_file, draw=draw) as running:
        yield running


async def cycle(running: Observer) -> None:
    """Run one cycle, and wait until each of its posts was tried once."""
    await running.cycle.run_once()
    await running.outbox.idle()


@asynccontextmanager
async def client(running: Observer, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the observer's main door. Its time-out is generous: no test measures time."""
    base_url = f"http://127.0.0.1:{running.port}"
    async with httpx.AsyncClient(**{"base_url": base_url, "timeout": 120.0, "trust_env": False, **options}) as http:
        yield http


def journal(tmp_path: Path, name: str = "ops.jsonl") -> list[dict[str, Any]]:
    """The decoded lines of the journal file."""
    data = (tmp_path / "data" / name).read_bytes()
    assert data == b"" or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


def without_crc(line: dict[str, Any]) -> dict[str, Any]:
    """A journal line's op, without the checksum and the note on its span."""
    return {name: value for name, value in line.items() if name not in ("crc", "span")}


async def settled(running: Observer, count: int) -> None:
    """Wait until *count* ops are in the ring, as gateway calls do not wait for theirs."""
    with running.feed.watch(lambda _op: True) as watch:
        async with asyncio.timeout(120):
            batches = watch.batches(0.2)
            while len(running.ring) < count:
                await anext(batches)


async def raw(port: int, request: bytes) -> bytes:
    """Send *request* to *port*; return everything received until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        await writer.drain()
        return await asyncio.wait_for(reader.read(), 120)
    finally:
        writer.close()


class Asked(NamedTuple):
    """One request to a stand-in; header names are lower case."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Answer(NamedTuple):
    """A stand-in's response; *content* is sent unchanged."""

    status: int = 200
    content: bytes = b"{}"
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


def says(body: object, status: int = 200) -> Answer:
    """A response with *body* as JSON."""
    return Answer(status, json.dumps(body).encode())


class StandIn:
    """A stand-in gateway or model: records requests, and answers by path from `answers`, otherwise `{}`.

    An answer may be a function of the request. Paths in *silent* are never answered; `release` ends that.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, Answer | Callable[[Asked], Answer]] = {}
        self.silent: set[str] = set()
        self.url = ""
        self._released = asyncio.Event()
        self._changed = asyncio.Condition()
        self._writers: set[asyncio.StreamWriter] = set()

    def posts(self, path: str) -> list[Any]:
        """The JSON bodies that came to *path*."""
        return [asked.json() for asked in self.asked if asked.path == path]

    def counts(self) -> dict[str, int]:
        """Requests by path."""
        counts: dict[str, int] = defaultdict(int)
        for asked in self.asked:
            counts[asked.path] += 1
        return dict(counts)

    async def wait_for(self, path: str, count: int = 1) -> None:
        """Return once *path* was asked *count* times."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.counts().get(path, 0) >= count)

    def release(self) -> None:
        """Close the connections of requests that are never answered."""
        self._released.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request."""
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is gone
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        asked = Asked(head[0].split(" ")[1], headers, body)
        async with self._changed:
            self.asked.append(asked)
            self._changed.notify_all()
        if asked.path in self.silent:
            await self._released.wait()
            return False
        answer = self.answers.get(asked.path, Answer())
        if callable(answer):
            answer = answer(asked)
        lines = [b"HTTP/1.1 %d Said" % answer.status, b"content-length: %d" % len(answer.content)]
        lines += [b"%b: %b" % header for header in answer.headers]
        writer.write(b"\r\n".join([*lines, b"", answer.content]))
        await writer.drain()
        return True

    def close(self) -> None:
        """Let every connection end."""
        self.release()
        for writer in list(self._writers):
            writer.close()


@asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    """A stand-in that listens on `url` for the length of the block."""
    stub = StandIn()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0, limit=2**20)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield stub
    finally:
        server.close()
        stub.close()
        await server.wait_closed()


class FaultyFile:
    """A journal file that fails with *failure* while that is set, and waits while *open_gate* is clear."""

    failure: OSError | None = None
    open_gate = threading.Event()

    def __init__(self, path: Path) -> None:
        self._file = AppendFile(path)
        self.size = self._file.size

    @classmethod
    def fresh(cls) -> type[FaultyFile]:
        """A new subclass for one test, so that tests share no state."""
        gate = threading.Event()
        gate.set()
        return type("FaultyFile", (cls,), {"failure": None, "open_gate": gate})

    def append(self, data: bytes) -> None:
        self.open_gate.wait()
        if self.failure is not None:
            raise self.failure
        self._file.append(data)
        self.size = self._file.size

    def sync(self) -> None:
        self.open_gate.wait()
        if self.failure is not None:
            raise self.failure
        self._file.sync()

    def close(self) -> None:
        self._file.close()
