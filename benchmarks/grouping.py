"""`python -m benchmarks.grouping`: how many failure messages a second are grouped, on one core, and the memory needed.

Messages come from `tests/data/messages`; distinct ones are made by drawing every number in them anew. Each figure is
the median of several rounds, in CPU time of this process, which does nothing else.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine, versions
from benchmarks.servers import ROOT
from sidecar.analysis.fingerprint import Fingerprints, mask
from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.template_tree import TemplateTree
from sidecar.model import ObservedOp

_MESSAGES = ROOT / "tests" / "data" / "messages"
_NUMBERS = re.compile(r"\d+")
_AT = "2026-01-31T08:15:00.000Z"
REQUIRED = {"distinct": 15_000, "repeated": 200_000}


def failures(count: int, dice: random.Random) -> list[ObservedOp]:
    """*count* failures with different messages."""
    rows = [json.loads(line) for name in sorted(_MESSAGES.glob("*.jsonl")) for line in name.read_text().splitlines()]
    with_numbers = [row for row in rows if _NUMBERS.search(row["message"])]
    found: dict[tuple[str, str], None] = {}
    while len(found) < count:
        row = dice.choice(with_numbers)
        text = _NUMBERS.sub(lambda number: str(dice.randrange(10 ** len(number[0]))), row["message"])
        found[row["endpoint"], text] = None
    return [an_op(endpoint, text) for endpoint, text in found]


def an_op(endpoint: str, error: str) -> ObservedOp:
    """One failure."""
    return ObservedOp(
        timestamp=_AT,
        endpoint=endpoint,
        input_summary="",
        success=False,
        duration_ms=1,
        output_summary="failed",
        error=error,
        trace_id="0" * 31 + "1",
        span_id="0" * 15 + "1",
    )


def per_second(take: Callable[[ObservedOp], object], ops: Sequence[ObservedOp]) -> float:
    """The number of *ops* processed per second of CPU time."""
    started = time.process_time()
    for op in ops:
        take(op)
    return len(ops) / (time.process_time() - started)


def resident_mib() -> float:
    """This process's resident memory, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def measure(count: int, rounds: int) -> dict[str, float]:
    """Messages a second: masked, grouped (all or few of them different), counted in incidents; and resident memory."""
    dice = random.Random(1)
    few = failures(500, dice) * max(1, count // 500)
    found: dict[str, list[float]] = {}
    memory: list[float] = []
    grouping, book = Fingerprints(TemplateTree()), IncidentBook()
    for _ in range(rounds):
        distinct = failures(count, dice)
        for name, take, ops in (
            ("masked", lambda op: mask(op.error or ""), distinct),
            ("distinct", grouping.find, distinct),
            ("repeated", grouping.find, few),
            ("counted in incidents", book.consume, few),
        ):
            found.setdefault(name, []).append(per_second(take, ops))
        del distinct
        memory.append(resident_mib())
    medians = {name: statistics.median(values) for name, values in found.items()}
    kept = {"resident after the first round, MiB": memory[0], "after the last": memory[-1]}
    return {**medians, **kept}


def main() -> int:
    """Print the table and write the JSON; returns 1 if a required rate is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "grouping.json")
    args = parser.parse_args()
    figures = measure(args.messages, args.rounds)
    table = Table("messages", "a second", "required", title="Grouping failure messages, one core")
    for name, value in figures.items():
        required = REQUIRED.get(name)
        table.add_row(name, f"{value:,.1f}" if value < 1000 else f"{value:,.0f}", f"{required:,}" if required else "")
    Console().print(table)
    with tempfile.TemporaryDirectory() as folder:
        about = {
            "machine": machine(Path(folder)),
            "versions": versions(None),
            "n": args.messages,
            "rounds": args.rounds,
        }
    args.json.write_text(json.dumps({**about, "figures": figures}, indent=1) + "\n", encoding="utf-8")
    return 0 if all(figures[name] >= least for name, least in REQUIRED.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
