"""Memory and CPU usage of this process, for the metrics."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Final

_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Resident memory now; without /proc, its maximum so far."""
    try:
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def cpu_seconds() -> float:
    """CPU time of all threads since start."""
    return time.process_time()
