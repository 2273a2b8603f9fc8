"""`observer demo`: runs the gateway as its own process, agents and the observer here, and shows what happens.

Agents call the gateway through `Observer.gateway`; everything shown comes from the observer's HTTP doors.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from random import Random
from typing import Any, Final

import httpx
from rich.console import Console, RenderableType
from rich.live import Live

from sidecar import logs
from sidecar.demo.agents import Agent
from sidecar.demo.gateway_process import gateway_process
from sidecar.demo.observer_doors import ObserverDoors
from sidecar.demo.overseer import Overseer
from sidecar.demo.own_observer import CYCLE_S, own_env, own_observer
from sidecar.demo.plain_lines import PlainLines, opening, summary
from sidecar.demo.run_folder import RunFolder, run_folder
from sidecar.demo.screen import LEAST_COLUMNS, LEAST_LINES, LiveScreen
from sidecar.demo.wording import RunInfo
from sidecar.pipeline.observer import Observer

_AGENTS: Final = ("STF-anna", "STF-ben", "STF-chloe", "STF-dev", "STF-eva", "STF-night")
_POOLS_EVENTS: Final = "STF-night"
_UNATTENDED_S: Final = 40.0
_LOOK_EVERY_S: Final = 0.5
_STATUS_EVERY: Final = 4  # every so many looks
_COLUMNS: Final = 100
_SETTLE_S: Final = 2.5 * CYCLE_S  # the last correction is read in the cycle after the current one
_SETTLE_STEP_S: Final = 0.05
_LAST_S: Final = 0.5


def main(
    seconds: float | None,
    *,
    plain: bool,
    port: int | None,
    data_dir: str | None,
    seed: int,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run the demo for *seconds* (None: until Ctrl-C, or 40 s without a terminal); returns the exit status.

    *port* None means 3800 or, if that is taken, any; *data_dir* None means a temporary folder. From *env* only the
    `OTEL_*` variables and the model's settings are used. Raises ObserverError.
    """
    console = Console()
    with run_folder(data_dir) as folder, folder.log.open("a", encoding="utf-8") as log_file:
        logs.configure("text", "info", log_file)
        try:
            asyncio.run(
                _Demo(console, folder, seconds, seed, keeps=data_dir is not None).run(own_env(env), port, plain)
            )
        finally:
            logs.configure("text", "warning")
    return 0


class _Demo:
    """One run of the demo."""

    def __init__(self, console: Console, folder: RunFolder, seconds: float | None, seed: int, *, keeps: bool) -> None:
        self._console = console
        self._folder = folder
        self._is_limit_given = seconds is not None
        self._seconds = _UNATTENDED_S if seconds is None and not console.is_terminal else seconds
        self._seed = seed
        self._keeps = keeps
        self._stopping = asyncio.Event()

    async def run(self, env: Mapping[str, str], port: int | None, plain: bool) -> None:
        """Start everything, show it, stop it in order, print the summary."""
        folder = self._folder
        with _ends_on_signal(self._stopping):
            async with (
                gateway_process(self._seed, folder.gateway_log) as gateway_url,
                own_observer(env, gateway_url, folder, port) as observer,
            ):
                await self._observe(observer, gateway_url, plain)

    async def _observe(self, observer: Observer, gateway_url: str, plain: bool) -> None:
        address = f"http://127.0.0.1:{observer.port}"
        proxy = f"http://127.0.0.1:{observer.proxy.port}" if observer.proxy is not None else gateway_url
        folder, columns = str(self._folder.root), _columns(self._console)
        info = RunInfo(
            address, gateway_url, proxy, len(_AGENTS), self._seed, self._seconds, folder, columns, self._is_limit_given
        )
        async with httpx.AsyncClient(base_url=address, trust_env=False) as client, _followed(client) as doors:
            show = self._show_lines if plain or not _is_roomy(self._console) else self._show_live
            elapsed_s = await self._work(observer, doors, lambda: show(doors, info))
            await doors.look()
        entries = await _gateway_log(gateway_url)
        self._say(summary(info, doors.seen, elapsed_s, entries, self._kept()))

    async def _work(self, observer: Observer, doors: ObserverDoors, show: Callable[[], Any]) -> float:
        """Let the agents work while *show* runs; returns the time taken, in seconds."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        overseer = Overseer(self._folder.corrections, Random(self._seed))
        agents = [
            Agent(
                name,
                observer.gateway,
                doors,
                on_failure=overseer.notice,
                dice=Random(f"{self._seed} {name}"),
                stopping=self._stopping,
                pools_events=name == _POOLS_EVENTS,
            )
            for name in _AGENTS
        ]
        async with asyncio.TaskGroup() as tasks:
            for agent in agents:
                tasks.create_task(agent.run())
            await show()
            elapsed_s = loop.time() - started
            self._stopping.set()
        await _settled(observer, doors, overseer.written)
        return elapsed_s

    async def _show_live(self, doors: ObserverDoors, info: RunInfo) -> None:
        screen = LiveScreen(self._console, info)

        def picture(elapsed_s: float) -> RenderableType:
            return screen.draw(doors.seen, elapsed_s)

        with Live(picture(0.0), console=self._console, screen=True, auto_refresh=False) as live:
            async for _, elapsed_s in self._looks(doors):
                live.update(picture(elapsed_s), refresh=True)

    async def _show_lines(self, doors: ObserverDoors, info: RunInfo) -> None:
        lines = PlainLines(info.columns)
        self._say(opening(info))
        async for number, elapsed_s in self._looks(doors):
            self._say(lines.news(doors.seen, elapsed_s))
            if number % _STATUS_EVERY == 0:
                self._say([lines.status(doors.seen, elapsed_s)])
                self._say(lines.lesson(doors.seen, elapsed_s))
        self._say([""])

    async def _looks(self, doors: ObserverDoors) -> AsyncIterator[tuple[int, float]]:
        """(number, seconds since the start) of each look at the observer, until time is up or we are stopped."""
        loop = asyncio.get_running_loop()
        started, number = loop.time(), 0
        ends = started + self._seconds if self._seconds is not None else None
        while not self._stopping.is_set() and (ends is None or loop.time() < ends):
            number += 1
            due = started + number * _LOOK_EVERY_S
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due if ends is None else min(due, ends)):
                    await self._stopping.wait()
            await doors.look()
            yield number, loop.time() - started

    def _kept(self) -> list[tuple[str, str]]:
        if not self._keeps:
            return [("journal", "was in a temporary folder and is gone; --data-dir DIR keeps it")]
        folder = self._folder
        return [
            ("journal", str(folder.observer / "ops.jsonl")),
            ("decisions", str(folder.observer / "decisions.jsonl")),
            ("log", str(folder.log)),
        ]

    def _say(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._console.file.write(line + "\n")
        self._console.file.flush()


def _is_roomy(console: Console) -> bool:
    width, height = console.size
    return console.is_terminal and not console.is_dumb_terminal and width >= LEAST_COLUMNS and height >= LEAST_LINES


def _columns(console: Console) -> int:
    return min(_COLUMNS, max(LEAST_COLUMNS, console.width)) if console.is_terminal else _COLUMNS


@contextmanager
def _ends_on_signal(stopping: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM, SIGHUP) ends the run in order, the second at once."""
    loop = asyncio.get_running_loop()
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop() -> None:
        stopping.set()
        for each in handled:
            loop.remove_signal_handler(each)

    for each in handled:
        loop.add_signal_handler(each, stop)
    try:
        yield
    finally:
        for each in handled:
            loop.remove_signal_handler(each)


@asynccontextmanager
async def _followed(client: httpx.AsyncClient) -> AsyncIterator[ObserverDoors]:
    """The doors; for the length of the block every op is counted."""
    doors, connected = ObserverDoors(client), asyncio.Event()
    following = asyncio.create_task(doors.follow(connected), name="follow")
    try:
        await connected.wait()
        await doors.look()
        doors.seen.begin()
        yield doors
    finally:
        following.cancel()
        await asyncio.wait([following])


async def _settled(observer: Observer, doors: ObserverDoors, corrections: int) -> None:
    """Wait until all *corrections* were read and all journalled ops came through the stream, for the summary.

    Everything else was acknowledged before its agent ended, or is in the journal a moment later.
    """
    await asyncio.sleep(_LAST_S)
    with suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_S):
            while (  # noqa: ASYNC110 - polled: there is no event to await
                observer.corrections.recorded < corrections
                or doors.seen.delivered + doors.seen.missed < observer.ops_log.committed
            ):
                await asyncio.sleep(_SETTLE_STEP_S)


async def _gateway_log(gateway_url: str) -> list[dict[str, Any]]:
    """The observer's posts to the gateway; empty if the gateway is gone."""
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"{gateway_url}/log")
            entries: list[dict[str, Any]] = response.raise_for_status().json()["entries"]
    except (httpx.HTTPError, ValueError):
        return []
    return entries
