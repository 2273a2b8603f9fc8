"""The result of a check of `observer doctor`, and the time limit of checks."""

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
    """One line of the report. *fix* says what to do, "" if nothing."""

    check: str
    status: Status
    found: str
    fix: str = ""


async def bounded(check: str, finding: Awaitable[Finding], late: Status = "fail", limit_s: float = LIMIT_S) -> Finding:
    """The result of *finding*; after *limit_s* seconds a finding that says so, with the status *late*."""
    try:
        async with asyncio.timeout(limit_s):
            return await finding
    except TimeoutError:
        return Finding(check, late, f"no answer within {limit_s:g} s", "The service it called hangs: look there")


async def in_thread(work: Callable[[], T]) -> T:
    """Run *work* on a daemon thread, so that a hung disk or mount cannot keep the program from exiting."""
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
        except Exception as exc:  # noqa: BLE001 - passed on to the caller
            failure = exc
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await done
