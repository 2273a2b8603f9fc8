"""`make fuzz`: schemathesis against a running observer, from the description that it serves itself.

Everything `/openapi.json` names, but `/ops/stream`, whose answer has no end. All checks apply: no 5xx,
documented statuses only, answers that fit their schema, wrong input refused.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.processes import UNMEASURED, running_observer


def fuzz(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run schemathesis with *options* against an observer of its own; its report is in `stdout`."""
    with running_observer(folder, **UNMEASURED) as observer:
        command = Path(sys.executable).parent / "schemathesis"
        return subprocess.run(
            [
                *(str(command), "run", f"{observer.url}/openapi.json", "--exclude-path", "/ops/stream"),
                *("--checks", "all", "--no-color", *options),
            ],
            cwd=folder,  # it leaves its own files where it runs
            env={**os.environ, **UNMEASURED},
            capture_output=True,
            text=True,
            check=False,
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report = fuzz(Path(scratch), *(sys.argv[1:] or ["--max-examples", "200"]))
    print(report.stdout)  # noqa: T201 - a program
    sys.exit(report.returncode)
