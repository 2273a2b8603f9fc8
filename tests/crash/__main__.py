"""`make crash ROUNDS=n SEED=s`: plays rounds one after another, a line each, and sums up; status 1 if any went wrong.

A round depends on its seed alone: `--seed S --rounds 1` plays it again. A folder whose round went wrong is kept.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import uvloop

from tests.crash.disk import remove_shim
from tests.crash.load import CONNECTIONS
from tests.crash.rounds import Round, run_round

_SHOWN = 5
_OPS = (("lost", "lost"), ("doubled", "doubled"), ("damaged", "damaged"), ("out of order", "disordered"))


def play(seed: int) -> Round:
    """Run one round in its own folder, which is removed unless the round failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"observer-crash-{seed}-"))
    try:
        played = uvloop.run(run_round(seed, folder))
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except Exception:
        say(f"  broke off: seed {seed}, kept: {folder}")
        raise
    if not played.verdict.kinds:
        shutil.rmtree(folder)
        return played
    for kind, found in played.verdict.kinds.items():
        say(f"  {kind} ({len(found)}): " + "; ".join(found[:_SHOWN]))
    say(f"  again: python -m tests.crash --rounds 1 --seed {seed}   kept: {folder}")
    return played


def say(line: str) -> None:
    """Print it now."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def shown(number: int, played: Round) -> str:
    """A round's line."""
    what = f"{played.fault} + {played.ended_by}" + (f" ({played.note})" if played.note else "")
    state = "WRONG" if played.verdict.kinds else "ok"
    return (
        f"{number:4d}  seed {played.seed:<6d} {played.seconds:4.1f} s  acknowledged {played.acknowledged:5d}  "
        f"refused {played.refused:4d}  spans again {played.exported_again:4d}  {state:5s}  {what}"
    )


def summary(rounds: list[Round], seconds: float) -> str:
    """The sums over all rounds."""

    def total(kind: str) -> int:
        return sum(len(getattr(played.verdict, kind)) for played in rounds)

    def count(of: str) -> str:
        return ", ".join(f"{name} {n}" for name, n in Counter(getattr(played, of) for played in rounds).most_common())

    def added(of: str) -> int:
        return sum(getattr(played, of) for played in rounds)

    wrong = sum(bool(played.verdict.kinds) for played in rounds)
    ops = ", ".join(f"{name} {total(kind)}" for name, kind in _OPS)
    return "\n".join(
        (
            f"rounds        {len(rounds)} in {seconds:.0f} s, {CONNECTIONS} connections, {wrong} went wrong",
            f"ops           {added('acknowledged')} acknowledged, {added('refused')} refused, {added('lines')} lines",
            f"faults        {count('fault')}",
            f"ended by      {count('ended_by')}",
            f"acknowledged  {ops}",
            f"spans         missing {total('unexported')}, sent again {added('exported_again')}",
            f"posts         {added('posts')} by key, sent again {added('posted_again')}",
            f"other         {total('other')}",
        )
    )


def main() -> int:
    """Exit status: 0 if every round went well."""
    parser = argparse.ArgumentParser(prog="make crash")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    rounds: list[Round] = []
    try:
        for seed in range(options.seed, options.seed + options.rounds):
            rounds.append(play(seed))
            say(shown(len(rounds), rounds[-1]))
    except KeyboardInterrupt:
        say("stopped")
    finally:
        remove_shim()
    say(summary(rounds, time.monotonic() - began))
    return int(any(played.verdict.kinds for played in rounds))


if __name__ == "__main__":
    sys.exit(main())
