"""What the process asks of the system before it serves."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE_S

_HEAPS = """
import ctypes, sys, threading
from sidecar.commands.process import keep_memory_small

if sys.argv[1] == "bounded":
    keep_memory_small()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
together = threading.Barrier(4)

def take() -> None:
    together.wait()
    libc.malloc(4096)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[2].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="the heaps are counted by glibc")
def test_all_threads_share_one_heap(tmp_path: Path) -> None:
    """By default glibc gives threads heaps of their own; a sidecar's memory must not creep up by them."""
    heaps = {}
    untuned = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    for how in ("bounded", "as it is"):
        report = tmp_path / how
        subprocess.run([sys.executable, "-c", _HEAPS, how, report], env=untuned, check=True, timeout=PATIENCE_S)
        heaps[how] = report.read_text().count("<heap nr=")
    assert heaps["bounded"] == 1
    assert heaps["as it is"] > 1


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="pages are given back by glibc")
def test_free_pages_between_used_ones_are_given_back() -> None:
    """Every second block is freed: the heap's end does not move, and resident memory falls all the same."""
    program = (
        "from sidecar.commands.process import give_back_memory, keep_memory_small; keep_memory_small();"
        "rss = lambda: int(open('/proc/self/statm').read().split()[1]);"
        "blocks = [bytes(40_000) for _ in range(1000)]; del blocks[::2];"
        "before = rss(); give_back_memory(); assert rss() < before - 1000, (before, rss())"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)


def test_the_sidecar_does_not_load_what_is_for_terminals() -> None:
    """`observer run` has structlog and httpx without rich; other commands can import rich afterwards all the same."""
    program = (
        "import sys; from sidecar.commands.process import load_without_terminal_parts; load_without_terminal_parts();"
        "import sidecar.commands.run; assert 'structlog' in sys.modules;"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('rich', 'pygments')]; import rich.table"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)
