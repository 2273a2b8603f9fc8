"""An agent that asks before it calls: `python examples/agent.py PROXY_URL OBSERVER_URL`, as `make demo` prints them.

It has thirty shifts to fill, and would notify the workers by text message, which the demo's gateway mostly loses. It
fills them without asking, then again with the observer's advice. The calls go through the observer's proxy and name
their task, so that the observer can measure its advice. Needs the extra `mcp`: `pip install '.[mcp]'`.
"""

import asyncio
import math
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import httpx
from mcp import Client, StdioServerParameters

Job = dict[str, Any]  # arguments of /tools/fill_shift


def followed(job: Job, wanted: dict[str, Any]) -> Job:
    """*job* with the values that advice wants: of a range the nearest number, and null leaves the argument out."""
    changed = dict(job)
    for name, value in wanted.items():
        if value is None:
            changed.pop(name, None)
        else:
            changed[name] = nearest(changed.get(name), **value) if isinstance(value, dict) else value
    return changed


def nearest(number: Any, above: float | None = None, up_to: float | None = None) -> Any:
    """The number nearest to *number* that is more than *above* and at most *up_to*; a whole one if *number* is."""
    if up_to is not None and (not isinstance(number, int | float) or number > up_to):
        return math.floor(up_to) if isinstance(number, int) else up_to
    if above is not None and (not isinstance(number, int | float) or number <= above):
        return math.floor(above) + 1 if isinstance(number, int) else math.nextafter(above, math.inf)
    return number


async def fill(jobs: dict[str, Job], proxy_url: str, observer_url: str) -> int:
    """How many of *jobs*, by task, succeed when the agent asks first."""
    server = StdioServerParameters(command="observer", args=["mcp", "--url", observer_url])
    async with Client(server) as observer, httpx.AsyncClient(base_url=proxy_url, timeout=30.0) as gateway:
        done = 0
        for task, job in jobs.items():
            ask = {"endpoint": "/tools/fill_shift", "facts": job, "task": task, "given": ["role", "city", "count"]}
            advice = (await observer.call_tool("get_advice", ask)).structured_content
            better = job
            for item in advice["advice"]:
                better = followed(better, item["set"])
            answer = await gateway.post("/tools/fill_shift", json=better, headers={"X-Observer-Op-Task": task})
            done += answer.is_success and "error" not in answer.json()
        return done


async def fill_unasked(jobs: dict[str, Job], proxy_url: str) -> int:
    """How many of the same jobs succeed without asking."""
    async with httpx.AsyncClient(base_url=proxy_url, timeout=30.0) as gateway:
        answers = [await gateway.post("/tools/fill_shift", json=job) for job in jobs.values()]
    return sum(answer.is_success and "error" not in answer.json() for answer in answers)


async def main(proxy_url: str, observer_url: str) -> None:
    """Fill the shifts both ways."""
    job = {"role": "picker", "city": "Denver", "state": "CO", "count": 1, "certified": True, "channel": "sms"}
    jobs = {f"job-{uuid.uuid4()}": job for _ in range(30)}
    try:
        async with httpx.AsyncClient(base_url=observer_url) as observer:
            await observer.get("/livez")
        unasked = await fill_unasked(jobs, proxy_url)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        at = f"{exc.request.url} does not answer" if isinstance(exc, httpx.TransportError) else "that is no address"
        sys.exit(f"agent: {at}: {str(exc).rstrip('.')}. Start `make demo`, and name the addresses that it prints")
    print(f"without asking {unasked} of {len(jobs)} succeed", flush=True)
    print(f"asking first   {await fill(jobs, proxy_url, observer_url)} of {len(jobs)} succeed", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # has `observer`
    asyncio.run(main(*sys.argv[1:]))
