"""Prepares the process before it serves: what it imports, how many files it may open, how its memory is managed."""

from __future__ import annotations

import ctypes
import importlib
import resource
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, Final

_MOST_FILES: Final = 65536
# Parameters of mallopt(3), as glibc numbers them.
_TRIM_THRESHOLD: Final = (-1, 256 << 10)
_MMAP_THRESHOLD: Final = (-3, 128 << 10)
_ARENA_MAX: Final = (-8, 1)


def load_without_terminal_parts() -> None:
    """Import structlog and httpx as if rich and pygments (for colours and httpx's own command) were not installed.

    Saves 6 MiB. To be called before anything else imports them; modules already imported stay as they are.
    """
    hidden = [name for name in ("rich", "pygments") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None marks a module as missing
    try:
        for library in ("structlog", "httpx"):
            importlib.import_module(library)
    finally:
        for name in hidden:
            del sys.modules[name]


def keep_grpc_quiet(environ: MutableMapping[str, str]) -> None:
    """Have gRPC write nothing to standard error by itself, unless GRPC_VERBOSITY asks for it: the log is ours.

    To be called before gRPC is imported; *environ* is the process's own, which gRPC reads.
    """
    environ.setdefault("GRPC_VERBOSITY", "NONE")


def raise_file_limit() -> None:
    """Raise the soft limit of open files (sockets included), often 1024, to the hard limit or 65536 at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_memory_small() -> None:
    """Make glibc use one heap for all threads and return large blocks to the system; without glibc, do nothing.

    By default each thread has a heap of its own, and each freed block raises the size from which blocks are returned:
    resident memory then creeps up for hours. Our threads hold the interpreter's lock nearly always, so they hardly
    compete for the heap. Variables such as `MALLOC_ARENA_MAX` were read before this and are overruled.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        for parameter, value in (_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD):
            mallopt(parameter, value)


def give_back_memory() -> None:
    """Return free pages between used ones to the system (malloc_trim(3)): a few ms, without the interpreter's lock."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Callable[..., Any] | None:
    function: Callable[..., Any] | None = getattr(ctypes.CDLL(None), name, None)
    return function
