"""What a check of `observer doctor` found, and how long a check may take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar

import msgspec

LIMIT_S = 5.0
Status = Literal["ok", "warn", "fail"]
T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the report. *fix* says what to do, where there is something."""

    check: str
    status: Status
    found: str
    fix: str = ""


async def bounded(check: str, finding: Awaitable[Finding], late: Status = "fail", limit_s: float = LIMIT_S) -> Finding:
    """*finding*, or after *limit_s* seconds one that says so, with the status *late*."""
    try:
        async with asyncio.timeout(limit_s):
            return await finding
    except TimeoutError:
        return Finding(check, late, f"no answer within {limit_s:g} s", "What it asks hangs: look there")


async def in_thread(work: Callable[[], T]) -> T:
    """*work* on a thread that a hung disk or mount may keep: the program ends all the same."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: Exception | None) -> None:
        if done.cancelled():
            return
        if failure is not None:
            done.set_exception(failure)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # a T whenever there is no failure

    def run() -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as exc:  # noqa: BLE001 - handed to whoever awaits
            failure = exc
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await done
