"""A small staffing gateway, as a process of its own: `python -m sidecar.demo.gateway --host 127.0.0.1 --port 0`.

Agents call its tools; it answers from SQLite, and refuses calls by `staffing_rules`. The observer posts to its `/log`.
Once it accepts calls, it prints its port as a line of JSON on standard output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from random import Random
from typing import Any

import falcon
import falcon.asgi
import msgspec
import uvicorn

from sidecar.demo.staffing_db import StaffingDb
from sidecar.demo.staffing_rules import (
    Refusal,
    StaffingCall,
    capacity_refusal,
    certificate_refusal,
    channel_refusal,
    city_refusal,
    pace,
    role_refusal,
    shard_refusal,
)

App = falcon.asgi.App[falcon.asgi.Request, falcon.asgi.Response]
Answer = dict[str, Any] | Refusal

_MAX_BODY_BYTES = 64 * 1024
_GRACE_S = 1


class Tools:
    """The gateway's tools: each method answers one call, or refuses it."""

    def __init__(self, db: StaffingDb, dice: Random) -> None:
        self._db = db
        self.dice = dice

    def fill_shift(self, call: StaffingCall) -> Answer:
        """Assign workers to a shift."""
        refused = self._refusal(call, certificate_refusal, channel_refusal)
        if refused is not None:
            return refused
        shift_id, capacity = self._db.shift(call.city, call.role)
        over = capacity_refusal(call, shift_id, capacity)
        if over is not None:
            return over
        workers = [row["worker_id"] for row in self._db.search(call.city, call.role, call.count)]
        self._db.fill(shift_id, workers)
        return {"shift_id": shift_id, "filled": len(workers), "workers": workers}

    def search_workers(self, call: StaffingCall) -> Answer:
        """List the available workers."""
        refused = self._refusal(call)
        if refused is not None:
            return refused
        rows = self._db.search(call.city, call.role, 2 * call.count)
        return {"rows": rows, "row_count": len(rows)}

    def ask(self, call: StaffingCall) -> Answer:
        """Answer a question in words; this tool also works for closed offices."""
        refused = role_refusal(call, self.dice)
        if refused is not None:
            return refused
        number = self._db.count(call.city, call.role)
        return {"answer": f"There are {number} workers with the role {call.role} in {call.city}, {call.state}."}

    def match(self, call: StaffingCall) -> Answer:
        """The best of the available workers."""
        refused = self._refusal(call, certificate_refusal)
        if refused is not None:
            return refused
        rows = self._db.search(call.city, call.role, 3 * call.count)
        best = sorted(rows, key=lambda row: -row["rating"])[: call.count]
        return {"sql_matches": len(rows), "vector_reranked": len(best), "matches": best}

    def _refusal(self, call: StaffingCall, *more: Callable[[StaffingCall, Random], Refusal | None]) -> Refusal | None:
        for rule in (role_refusal, city_refusal, *more):
            refused = rule(call, self.dice)
            if refused is not None:
                return refused
        return None


class ToolResource:
    """`POST /tools/…`: one tool, with the latency of the city's shard."""

    def __init__(self, answer: Callable[[StaffingCall], Answer], dice: Random) -> None:
        self._answer = answer
        self._dice = dice

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Respond with the tool's answer, or `{"error": …}`."""
        call = msgspec.json.decode(await _body(req), type=StaffingCall)
        wait_s, gives_up = pace(call, self._dice)
        await asyncio.sleep(wait_s)
        answer = shard_refusal(call, self._dice) if gives_up else self._answer(call)
        if isinstance(answer, Refusal):
            resp.status = answer.status
            answer = {"error": answer.error}
        resp.media = answer


class LogResource:
    """`POST /log` stores the observer's posts, once per `Idempotency-Key`; `GET /log` lists them."""

    def __init__(self, db: StaffingDb) -> None:
        self._db = db

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Store an entry; `{"logged": false}` if its key was here before."""
        entry = msgspec.json.decode(await _body(req), type=dict[str, Any])
        resp.media = {"logged": self._db.keep(req.get_header("Idempotency-Key"), entry)}

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """List the entries, oldest first."""
        resp.media = {"entries": self._db.log_entries()}


class HealthResource:
    """`GET /health`."""

    async def on_get(self, _req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        """Respond that the gateway is well."""
        resp.media = {"status": "ok", "service": "staffing-gateway"}


def create_app(db: StaffingDb, dice: Random) -> App:
    """The gateway's HTTP application over an open *db*."""
    app: App = falcon.asgi.App()
    tools = Tools(db, dice)
    for tool in (tools.fill_shift, tools.search_workers, tools.ask, tools.match):
        app.add_route(f"/tools/{tool.__name__}", ToolResource(tool, dice))
    app.add_route("/log", LogResource(db))
    app.add_route("/health", HealthResource())
    app.add_error_handler(msgspec.MsgspecError, _bad_body)
    app.set_error_serializer(_say_error)
    return app


async def _body(req: falcon.asgi.Request) -> bytes:
    body: bytes = await req.stream.read(_MAX_BODY_BYTES + 1)
    if len(body) > _MAX_BODY_BYTES:
        raise falcon.HTTPContentTooLarge(title=f"a body of more than {_MAX_BODY_BYTES} bytes")
    return body


async def _bad_body(
    _req: falcon.asgi.Request, resp: falcon.asgi.Response | None, exc: Exception, _params: dict[str, Any]
) -> None:
    if resp is not None:
        resp.status = 400
        resp.media = {"error": f"bad request body: {exc}"}


def _say_error(_req: falcon.asgi.Request, resp: falcon.asgi.Response, exc: falcon.HTTPError) -> None:
    resp.media = {"error": exc.description or exc.title}


class _Server(uvicorn.Server):
    """A server that prints its address once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            sys.stdout.write(json.dumps({"host": host, "port": port}) + "\n")
            sys.stdout.flush()


async def serve(host: str, port: int, seed: int, db_path: str, *, until_eof: bool) -> None:
    """Serve until SIGTERM or SIGINT, or, with *until_eof*, until standard input ends."""
    dice = Random(seed)
    db = StaffingDb(dice, db_path)
    db.open()
    with closing(db):
        config = uvicorn.Config(
            create_app(db, dice),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_GRACE_S,
        )
        server = _Server(config)
        watching = asyncio.create_task(_stop_at_eof(server)) if until_eof else None
        await server.serve()
        if watching is not None:
            watching.cancel()


async def _stop_at_eof(server: uvicorn.Server) -> None:
    """Stop when standard input ends: the parent holds its other end, so we end with it, even if it is killed."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.read(1024):
        pass
    server.should_exit = True


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.demo.gateway", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=3700, help="port; 0 picks a free one")
    parser.add_argument("--seed", type=int, default=1, help="seed of its dice")
    parser.add_argument("--db", default=":memory:", help="file of a new database; in memory if not given")
    parser.add_argument("--until-eof", action="store_true", help="exit when standard input ends")
    args = parser.parse_args(argv)
    asyncio.run(serve(args.host, args.port, args.seed, args.db, until_eof=args.until_eof))


if __name__ == "__main__":
    main()
