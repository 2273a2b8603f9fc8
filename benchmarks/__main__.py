"""`python -m benchmarks`: measure, print the tables, write the JSON. The exit status does not depend on the figures."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from benchmarks import report as reporting
from benchmarks.gateway_stub import gateway_stub
from benchmarks.in_folder import in_folder
from benchmarks.machine import machine, versions
from benchmarks.measure import SCENARIOS, Progress, Scenario, measure, measure_starts, resident, warm_up
from benchmarks.servers import (
    ROOT,
    Cores,
    Program,
    Server,
    noop_program,
    observer_program,
    pinned,
    reference_program,
    split_cores,
    usable_cores,
)

_REFERENCE = ROOT.parent / "shared" / "reference" / "observer.ts"
_WIDTH = 120  # if the output is not a terminal
_WARM_UP_S = 1.0


def main(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Measure as *arguments* say; returns 1 if a server did not start or a load failed."""
    args = _arguments(arguments, env)
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDTH)

    def measured(folder: Path) -> reporting.Report:
        with console.status("") if terminal else contextlib.nullcontext() as status:
            return run(args, env, folder, status.update if status else _say_nothing)

    report = in_folder("bench", args.data_dir, console, measured)
    if report is None:
        return 1
    args.output.write_bytes(reporting.to_json(report))
    reporting.show(report, console)
    console.print(f"written: {args.output}", highlight=False)
    return 0


def run(
    args: argparse.Namespace,
    env: Mapping[str, str],
    folder: Path,
    progress: Progress,
    scenarios: Sequence[Scenario] = SCENARIOS,
) -> reporting.Report:
    """Start the servers, run all measurements, stop the servers. Raises BenchmarkError."""
    cores = split_cores(usable_cores())
    facts = machine(folder)
    with gateway_stub() as gateway_url, pinned(cores.load), contextlib.ExitStack() as running:
        programs = _programs(args, gateway_url)
        starts = measure_starts(programs, folder, env, cores, args.starts, progress)
        servers = [running.enter_context(Server(each, folder / each.name, env, cores.server)) for each in programs]
        progress("memory at rest")
        time.sleep(args.rest)
        at_rest = resident(servers)
        warm_up(servers, cores, min(_WARM_UP_S, args.seconds))
        measured = [
            measure(scenario, servers, cores, rounds=args.rounds, seconds=args.seconds, progress=progress)
            for scenario in scenarios
        ]
        after_load = resident(servers)
    return reporting.Report(
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=_settings(args, cores),
        machine=facts | {"load_average_after": [round(each, 2) for each in os.getloadavg()]},
        versions=versions(args.bun if len(programs) > 2 else None),
        measured=measured,
        starts_s=starts,
        at_rest_mib=at_rest,
        after_load_mib=after_load,
    )


def _programs(args: argparse.Namespace, gateway_url: str) -> list[Program]:
    programs = [noop_program(), observer_program({"GATEWAY_URL": gateway_url, "LAKEHOUSE_URL": gateway_url})]
    if args.bun and args.reference.is_file():
        programs.append(reference_program(args.bun, args.reference, gateway_url))
    return programs


def _settings(args: argparse.Namespace, cores: Cores) -> dict[str, object]:
    return {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "starts": args.starts,
        "rest_s": args.rest,
        "server_core": _named(cores.server),
        "load_core": _named(cores.load),
    }


def _named(cores: frozenset[int] | None) -> str:
    return "any" if cores is None else ",".join(map(str, sorted(cores)))


def _arguments(arguments: Sequence[str], env: Mapping[str, str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split(":", 1)[1].strip())
    parser.add_argument("--quick", action="store_true", help="3 rounds of 1 s and 3 starts: a first look")
    parser.add_argument("--rounds", type=_positive_int, help="rounds of each load [5]")
    parser.add_argument("--seconds", type=_positive, help="length of each load in a round [3]")
    parser.add_argument("--starts", type=_positive_int, help="starts of each server [5]")
    parser.add_argument("--rest", type=float, default=3.0, help="seconds without traffic before memory is read [3]")
    parser.add_argument("--bun", default=shutil.which("bun", path=env.get("PATH")), help="Bun [from PATH]")
    parser.add_argument(
        "--reference", type=Path, default=_REFERENCE, help="the reference program [../shared/reference/observer.ts]"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results.json", help="the JSON's file")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "build", help="where data lies while it runs [build/]")
    args = parser.parse_args(arguments)
    args.rounds = args.rounds or (3 if args.quick else 5)
    args.seconds = args.seconds or (1.0 if args.quick else 3.0)
    args.starts = args.starts or (3 if args.quick else 5)
    args.data_dir = args.data_dir.resolve()
    args.output = args.output.resolve()
    if args.bun:
        args.bun = str(Path(args.bun).absolute())
    return args


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 3600")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if not 0 < value <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 1 to 1000")
    return value


def _say_nothing(_: str) -> None:
    """Discard the progress, which is shown on terminals only."""


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        sys.exit(130)
