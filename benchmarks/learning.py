"""`python -m benchmarks.learning`: what is learnt in simulated worlds, and how well; tables, and JSON.

Everything runs on the product's own classes. All worlds and random draws come from seeds: the same run gives the same
figures. The exit status does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from rich.console import Console

from benchmarks.learning_loop import REVERSES_AT, SEEN, WITHIN, improvement, reversal
from benchmarks.learning_report import Figure, Report, Sizes, at_least, at_most, share, show, wilson
from benchmarks.learning_rules import OBSERVATIONS, Found, false_alarm, planted, planted_together
from benchmarks.learning_uplift import EXPOSURES, LOOKS, SETTINGS, life, missed_at, width_ratio
from benchmarks.machine import machine, versions
from benchmarks.servers import ROOT

_EFFECTS = (-0.2, -0.15, -0.1, -0.05, 0.0, 0.1, 0.2)
_BASES = (0.5, 0.6, 0.7, 0.8)
_T = TypeVar("_T")


QUICK = Sizes(worlds=12, several=4, null_worlds=4, null_cycles=60, loops=4, reversals=2, lives=8, coverage=4)


class Runs:
    """Runs a function for many seeds, on all cores."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def of(self, run: Callable[[int], _T], count: int) -> list[_T]:
        """The results of *run* for the seeds 0 to *count* − 1, in this order."""
        if self._processes == 1:
            return [run(seed) for seed in range(count)]
        with Pool(self._processes) as pool:
            return pool.map(run, range(count), chunksize=1)


def _rules(report: Report, runs: Runs) -> None:
    found = runs.of(planted, report.sizes.worlds)
    reported, true = sum(each.reported for each in found), sum(each.true for each in found)
    report.figures += [
        at_least("recall of planted rules", 0.9, sum(each.found for each in found), len(found)),
        at_least("precision of rules reported", 0.9, true, reported),
    ]
    groups = {f"{size} conditions": [each for each in found if each.conditions == size] for size in (1, 2, 3)}
    for low, high in ((30, 40), (40, 50), (50, 90)):
        groups[f"effect of {low} to {high} points"] = [each for each in found if low <= each.effect < high]
    title = f"planted rules, {OBSERVATIONS} observations on both sides"
    report.tables[title] = [_rules_row(name, some) for name, some in groups.items()]


def _rules_row(name: str, found: Sequence[Found]) -> dict[str, Any]:
    reported = sum(each.reported for each in found)
    return {
        "worlds with": name,
        "worlds": len(found),
        "recall": share(sum(each.found for each in found), len(found)),
        "precision": share(sum(each.true for each in found), reported),
        "ops (median)": statistics.median(each.ops for each in found) if found else None,
    }


def _several_rules(report: Report, runs: Runs) -> None:
    rows = []
    for rules in (2, 3):
        worlds = runs.of(partial(planted_together, rules), report.sizes.several)
        each = [rule for world in worlds for rule in zip(world.provable, world.found, strict=True)]
        reported, true = sum(world.reported for world in worlds), sum(world.true for world in worlds)
        found = sum(is_found for _, is_found in each)
        rows.append(
            {
                "worlds with": f"{rules} rules",
                "worlds": len(worlds),
                "rules": len(each),
                "recall": share(found, len(each)),
                "provable": share(sum(is_provable for is_provable, _ in each), len(each)),
                "recall of these": share(sum(all(rule) for rule in each), sum(rule[0] for rule in each)),
                "precision": share(true, reported),
            }
        )
        report.figures.append(at_least(f"recall, {rules} rules a world", 0.9, found, len(each)))
        report.figures.append(at_least(f"precision, {rules} rules a world", 0.9, true, reported))
    report.tables[f"several planted rules, each at its {OBSERVATIONS} observations on both sides"] = rows


def _no_rules(report: Report, runs: Runs) -> None:
    cycles = report.sizes.null_cycles
    alarms = sum(runs.of(partial(false_alarm, cycles=cycles), report.sizes.null_worlds))
    name = f"worlds without rules that report one in {cycles:,} cycles"
    report.figures.append(at_most(name, 0.05, alarms, report.sizes.null_worlds))


def _loop(report: Report, runs: Runs) -> None:
    found = runs.of(improvement, report.sizes.loops)
    gained, possible = sum(each.gained for each in found), sum(each.possible for each in found)
    name = f"of the oracle's improvement, ops {SEEN[0]} to {SEEN[1]}, tasks not withheld"
    value = gained / possible if possible else 0.0
    report.figures.append(Figure(name, "≥ 0.8", value, value >= 0.8, len(found)))
    shares = sorted(each.gained / each.possible if each.possible else 1.0 for each in found)
    report.tables["closed loop, points a task"] = [
        {
            "runs": len(found),
            "gained": round(gained / len(found), 1),
            "possible": round(possible / len(found), 1),
            "runs that reach 80 %": share(sum(each >= 0.8 for each in shares), len(found)),
            "median run": round(statistics.median(shares), 2),
        }
    ]


def _reversal(report: Report, runs: Runs) -> None:
    found = [each for each in runs.of(reversal, report.sizes.reversals) if each.stood]
    both = [max(each.retired, each.replaced) for each in found if each.retired and each.replaced]
    name = f"rules that reverse at op {REVERSES_AT:,}: retired and replaced within {WITHIN} ops"
    report.figures.append(at_least(name, 0.9, len(both), len(found)))
    report.tables["reversal, ops"] = [
        {
            "what": what,
            "runs": len(times),
            "done": share(sum(each is not None for each in times), len(times)),
            "median": statistics.median([each for each in times if each] or [0]),
            "worst": max([each for each in times if each] or [0]),
        }
        for what, times in (("retired", [e.retired for e in found]), ("replaced", [e.replaced for e in found]))
    ]


def _lives(report: Report, runs: Runs) -> None:
    rows = []
    for effect in _EFFECTS:
        ends = []
        for base in _BASES:
            ends += runs.of(partial(_life_of, base, effect), report.sizes.lives // len(_BASES))
        states = [state for state, _ in ends]
        retired = states.count("retired")
        when = [number for state, number in ends if state == "retired"]
        rows.append(
            {
                "effect, points": round(100 * effect),
                "runs": len(ends),
                "retired": share(retired, len(ends)),
                "promoted": share(states.count("active"), len(ends)),
                "exposures until retired (median)": statistics.median(when) if when else None,
            }
        )
        if effect == -0.2:
            name = f"harmful entry (−20 points) retired within {EXPOSURES} exposures"
            report.figures.append(at_least(name, 0.85, retired, len(ends)))
        elif effect == 0.2:
            name = "helpful entry (+20 points) wrongly retired"
            report.figures.append(at_most(name, 0.05, retired, len(ends)))
    report.tables[f"entries after {EXPOSURES} exposures, both arms together"] = rows


def _life_of(base: float, effect: float, seed: int) -> tuple[str, int]:
    return life(base, effect, seed)


def _coverage(report: Report, runs: Runs) -> None:
    rows, missed_in_all = [], 0
    for setting in SETTINGS:
        missed = [at for at in runs.of(partial(missed_at, setting), report.sizes.coverage) if at is not None]
        missed_in_all += len(missed)
        low, high = wilson(report.sizes.coverage - len(missed), report.sizes.coverage)
        rows.append(
            {
                "shown": setting.shown,
                "withheld": setting.withheld,
                "propensity": " then ".join(map(str, setting.propensities)),
                "runs": report.sizes.coverage,
                "covers": share(report.sizes.coverage - len(missed), report.sizes.coverage),
                "95 % of that": f"{low:.3f}–{high:.3f}",
                "first miss (median look)": statistics.median(missed) if missed else None,
            }
        )
    runs_in_all = report.sizes.coverage * len(SETTINGS)
    name = f"coverage over {LOOKS:,} looks, from the first task on"
    report.figures.append(at_least(name, 0.95, runs_in_all - missed_in_all, runs_in_all))
    report.tables["coverage of the uplift interval at every one of its looks"] = rows


def _width(report: Report, _: Runs) -> None:
    ratios = [width_ratio(rate, effect) for rate in (0.3, 0.5, 0.7) for effect in (-0.2, 0.0, 0.2)]
    name = "width at 1,000 tasks an arm, × Newcombe's fixed sample (largest)"
    report.figures.append(Figure(name, "≤ 1.8", max(ratios), max(ratios) <= 1.8, len(ratios)))


_PARTS: dict[str, Callable[[Report, Runs], None]] = {
    "rules": _rules,
    "several_rules": _several_rules,
    "no_rules": _no_rules,
    "loop": _loop,
    "reversal": _reversal,
    "lives": _lives,
    "coverage": _coverage,
    "width": _width,
}


def measure(sizes: Sizes, runs: Runs, say: Callable[[str], None], only: Sequence[str] = (*_PARTS,)) -> Report:
    """Run all parts, or *only* some."""
    began = time.monotonic()
    report = Report(sizes, machine(ROOT), versions(None), 0.0, [], {})
    for name, part in _PARTS.items():
        if name in only:
            say(name.replace("_", " "))
            part(report, runs)
    report.seconds = round(time.monotonic() - began, 1)
    return report


def main(arguments: Sequence[str]) -> int:
    """Measure as *arguments* say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs of each kind: a first look")
    parser.add_argument("--only", choices=_PARTS, nargs="+", default=(*_PARTS,), help="these parts [all]")
    parser.add_argument("--worlds", type=int, help="with planted rules, and half as many of several")
    parser.add_argument("--processes", type=int, default=2, help="at once [2]")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "learning.json", help="the JSON's file")
    args = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    sizes = QUICK if args.quick else Sizes()
    if args.worlds:
        sizes = msgspec.structs.replace(sizes, worlds=args.worlds, several=args.worlds // 2)
    report = measure(sizes, Runs(args.processes), console.log, args.only)
    args.output.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    show(report, console)
    console.print(f"written: {args.output}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
