"""What the process sees to before it serves: what it loads, how many files it may open, how its memory is given out."""

from __future__ import annotations

import ctypes
import importlib
import resource
import sys
from collections.abc import Callable
from typing import Any, Final

_MOST_FILES: Final = 65536
# Parameters of mallopt(3), as glibc numbers them.
_TRIM_THRESHOLD: Final = (-1, 256 << 10)
_MMAP_THRESHOLD: Final = (-3, 128 << 10)
_ARENA_MAX: Final = (-8, 1)


def load_without_terminal_parts() -> None:
    """Import structlog and httpx as where rich and pygments are not installed: for colours and a command of its own.

    That is 6 MiB. To be called before anything else imports them; what came first stays as it is.
    """
    hidden = [name for name in ("rich", "pygments") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: how imports learn that it is not there
    try:
        for library in ("structlog", "httpx"):
            importlib.import_module(library)
    finally:
        for name in hidden:
            del sys.modules[name]


def raise_file_limit() -> None:
    """Let the process open as many files (sockets are files) as it may, up to 65536: the soft limit is often 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_memory_small() -> None:
    """Have glibc share one heap among the threads and give large blocks back; where there is no glibc, nothing.

    By default each thread has a heap of its own, and what was freed once raises the size from which blocks are given
    back: resident memory then creeps up for hours. Our threads hold the interpreter's lock nearly always, so they
    do not get in each other's way. Variables such as `MALLOC_ARENA_MAX` are read before and are overruled.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        for parameter, value in (_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(parameter, value)


def give_back_memory() -> None:
    """Give free pages back that lie between used ones (malloc_trim(3)): a few ms, without the interpreter's lock."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Callable[..., Any] | None:
    function: Callable[..., Any] | None = getattr(ctypes.CDLL(None), name, None)
    return function
