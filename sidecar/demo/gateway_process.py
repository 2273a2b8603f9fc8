"""Runs the demo's gateway as a process of its own, and ends it in any case."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from sidecar.errors import StartError

_READY_S: Final = 60.0
_STOP_S: Final = 3.0


@asynccontextmanager
async def gateway_process(seed: int, log_path: Path) -> AsyncIterator[str]:
    """Yields the address of a running gateway, which ends with the block. Its own messages go to *log_path*.

    It has a session of its own, so that Ctrl-C reaches only us. It exits when the pipe to its standard input closes, so
    that it does not outlive us even if we are killed. Raises StartError.
    """
    with log_path.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "sidecar.demo.gateway", "--host", "127.0.0.1", "--port", "0"),
            *("--seed", str(seed), "--until-eof"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield await _address(process, log_path)
    finally:
        await _end(process)


async def _address(process: asyncio.subprocess.Process, log_path: Path) -> str:
    line = b""
    if process.stdout is not None:
        try:
            async with asyncio.timeout(_READY_S):
                line = await process.stdout.readline()
        except TimeoutError:
            pass
    if not line:
        raise StartError(
            "the demo's gateway did not start", _last_words(log_path), "Run `python -m sidecar.demo.gateway --port 0`"
        )
    return f"http://127.0.0.1:{json.loads(line)['port']}"


def _last_words(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it did not say which port it has"


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    for signal in (None, process.terminate, process.kill):
        if signal is not None and process.returncode is None:
            signal()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            continue
        return
