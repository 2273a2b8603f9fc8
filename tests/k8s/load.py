"""Calls at a steady rate, whatever their outcome: `python -m tests.k8s.load --seconds 10 --proxied 100 --direct 10`.

Runs in the Pod's network, so all of it stays on that loopback. Prints one JSON line a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from random import Random
from typing import Any

import httpx

_CITIES = ("Denver", "Phoenix", "Tucson", "Boise")  # calls for the last one fail, so there is something to learn
_ROLES = ("welder", "picker", "packer")
_TIMEOUT_S = 10.0


async def call(client: httpx.AsyncClient, kind: str, url: str, body: dict[str, Any]) -> None:
    """Make one call and print its line; `outcome` is a status, the proxy's own answer, or an exception."""
    started = time.perf_counter()
    try:
        answer = await client.post(url, json=body)
        own = answer.headers.get("X-Observer-Error")
        outcome = f"{own}:{answer.status_code}" if own else str(answer.status_code)
    except httpx.HTTPError as exc:
        outcome = type(exc).__name__
    line = {"kind": kind, "ms": (time.perf_counter() - started) * 1000, "outcome": outcome, "id": body.get("event_id")}
    sys.stdout.write(json.dumps(line) + "\n")


async def steadily(client: httpx.AsyncClient, kind: str, rate: float, seconds: float, port: int) -> None:
    """Make *rate* calls a second for *seconds*; a slow answer does not delay later calls."""
    dice, loop = Random(port), asyncio.get_running_loop()
    began, tasks = loop.time(), set()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(began + number / rate - loop.time())
        if kind == "events":
            url = f"http://127.0.0.1:{port}/event"
            name = f"{time.time_ns()}-{number}"
            body = {"endpoint": "/by-event", "success": True, "input_summary": "by event", "event_id": name}
        else:
            url = f"http://127.0.0.1:{port}/tools/search_workers"
            body = {"role": dice.choice(_ROLES), "city": dice.choice(_CITIES), "count": 1 + number % 3}
        task = asyncio.create_task(call(client, kind, url, body))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)


async def main(args: argparse.Namespace) -> None:
    """All kinds at once."""
    headers = {"Authorization": "Bearer ingest"}
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
    async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_S, headers=headers, limits=limits) as client:
        await asyncio.gather(
            steadily(client, "proxied", args.proxied, args.seconds, 3701),
            steadily(client, "direct", args.direct, args.seconds, 3700),
            steadily(client, "events", args.events, args.seconds, 3800),
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("seconds", "proxied", "direct", "events"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    asyncio.run(main(parser.parse_args()))
