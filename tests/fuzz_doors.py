"""`make fuzz`: runs schemathesis against a running observer, with the OpenAPI description that it serves.

Covers every path in `/openapi.json` except `/ops/stream`, whose response has no end. All checks apply: no 5xx,
only documented statuses, responses that match their schema, invalid input refused.
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
            cwd=folder,  # it writes files into its working directory
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
