"""What README and pages tell to type does what they show: beside the demo's gateway, with an observer that learnt."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sidecar.cli import main
from sidecar.demo.gateway_process import gateway_process
from sidecar.demo.staffing_rules import CHANNELS
from sidecar.pipeline.observer import Observer
from tests.doc_pages import PAGES, Command, commands
from tests.observers import cycle, observer

PAGES_WITH_COMMANDS = (
    "README.md",
    "docs/events.md",
    "docs/proxy.md",
    "docs/incidents.md",
    "docs/advice.md",
    "docs/api.md",
)
JOB = {"role": "picker", "city": "Denver", "state": "CO", "count": 1, "certified": True}
_EXPOSURE = "ex-01a215da…"  # as the pages write it
_ONLY_LATER = {"effect"}  # what an answer has once an entry was measured
_GO_ON = {"run", "tail", "demo", "mcp"}  # until they are told to stop
_STOPPED = {"replay", "forget"}  # want the observer stopped
_ELSEWHERE = {"doctor"}  # exits by what it finds


def _documented(program: str) -> Iterator[Command]:
    """Each once, in the order of the pages."""
    seen: dict[str, Command] = {}
    for name in PAGES_WITH_COMMANDS:
        for each in commands(PAGES[name]):
            if re.search(rf"(^|\| ){program} ", each.line):
                seen.setdefault(each.line, each)
    return iter(seen.values())


async def _taught(running: Observer) -> None:
    """240 calls through the proxy, of agents that choose their channel by chance."""
    assert running.proxy is not None
    dice = Random(1)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.proxy.port}", timeout=30.0) as agent:
        for start in range(0, 240, 20):
            jobs = [JOB | {"channel": dice.choice(CHANNELS)} for _ in range(20)]
            await asyncio.gather(*(_call(agent, job, f"w-{start + number}") for number, job in enumerate(jobs)))
    await cycle(running)


async def _call(agent: httpx.AsyncClient, job: dict[str, Any], task: str) -> None:
    await agent.post("/tools/fill_shift", json=job, headers={"X-Observer-Op-Task": task})


async def test_what_the_pages_show_is_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every `curl` gives the fields, status and headers that are shown; every `observer` command works."""
    if shutil.which("curl") is None:
        pytest.skip("no curl, which the pages' commands call")
    async with (
        gateway_process(1, tmp_path / "gateway.log") as gateway_url,
        observer(tmp_path, GATEWAY_URL=gateway_url, OBSERVER_PROXY_PORT="0") as running,
    ):
        monkeypatch.chdir(tmp_path)  # not before: a process that is started elsewhere is measured by other rules
        await _taught(running)
        monkeypatch.setenv("OBSERVER_PORT", str(running.port))
        monkeypatch.setenv("OBSERVER_DATA_DIR", str(tmp_path / "data"))
        exposures: list[str] = []
        for each in _documented("curl"):
            _same(each, await _told(running, each.line, exposures), exposures)
        for each in _documented("observer"):
            await _works(each, capsys)


async def _told(running: Observer, line: str, exposures: list[str]) -> str:
    """What *line* prints; asked for other tasks while chance withholds the entry from the one that the page names."""
    came = await _curl(running, line, exposures)
    for number in range(50):
        if '"advice":[]' not in came:
            break
        came = await _curl(running, line.replace("task=t-17", f"task=t-{number}"), exposures)
    return came


async def _curl(running: Observer, line: str, exposures: list[str]) -> str:
    assert running.proxy is not None
    line = line.replace("localhost:3800", f"127.0.0.1:{running.port}")
    line = line.replace("localhost:3701", f"127.0.0.1:{running.proxy.port}")
    if _EXPOSURE in line:
        line = line.replace(_EXPOSURE, exposures[-1])
    process = await asyncio.create_subprocess_exec("sh", "-c", line, stdout=asyncio.subprocess.PIPE)
    stdout, _ = await process.communicate()
    assert process.returncode == 0, line
    return stdout.decode()


def _same(command: Command, came: str, exposures: list[str]) -> None:
    """What came has the status line and headers, or the fields, that the page shows."""
    shown, body = command.printed, came
    if shown.startswith("HTTP/"):
        head, _, body = came.replace("\r\n", "\n").partition("\n\n")
        shown_head, _, shown = shown.partition("\n\n")
        assert shown_head.splitlines()[0] == head.splitlines()[0]
        assert _names(shown_head) <= _names(head), command.line
    answer = json.loads(body)
    if shown:
        assert _is_like(json.loads(shown.replace("\n", " ")), answer), (command.line, came)
    else:
        assert command.printed or "error" not in answer, (command.line, came)
    if isinstance(answer.get("exposure_id"), str):
        exposures.append(answer["exposure_id"])


def _names(head: str) -> set[str]:
    return {line.partition(":")[0].lower() for line in head.splitlines()[1:]}


def _is_like(shown: Any, came: Any) -> bool:
    """The same fields and kinds of values; texts and numbers may be others."""
    if isinstance(shown, dict):
        return isinstance(came, dict) and all(
            (name in _ONLY_LATER and name not in came) or (name in came and _is_like(value, came[name]))
            for name, value in shown.items()
        )
    if isinstance(shown, list):
        return isinstance(came, list) and len(came) >= len(shown) and all(map(_is_like, shown, came))
    return isinstance(came, type(shown))


async def _works(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command.line, comments=True)[1:]
    if words[0] in _GO_ON | _STOPPED | _ELSEWHERE:
        assert await asyncio.to_thread(_understood, words), command.line
        return
    capsys.readouterr()
    status = await asyncio.to_thread(main, words)
    printed = capsys.readouterr()
    assert status == 0, (command.line, printed)
    if command.printed:  # a table: its headings
        assert command.printed.split("\n")[0].split() == printed.out.split("\n")[0].split()


def _understood(words: list[str]) -> bool:
    """Whether the command line is one: `--help` behind it prints the help instead of an error."""
    with pytest.raises(SystemExit) as left:
        main([*words, "--help"])
    return left.value.code == 0
