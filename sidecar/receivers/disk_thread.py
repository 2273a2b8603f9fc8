"""Runs work that may wait for a disk in a daemon thread: a disk that hangs for ever must not keep the process alive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run *work* in a thread called *name*; the future has its result."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as exc:  # noqa: BLE001 - raised again where the result is awaited
            _call_soon(loop, done.set_exception, exc)
        else:
            _call_soon(loop, done.set_result, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return done


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], value: object) -> None:
    try:
        loop.call_soon_threadsafe(call, value)
    except RuntimeError:  # the loop is closed: nobody waits any more
        log.warning("read.too_late", thread=threading.current_thread().name)
