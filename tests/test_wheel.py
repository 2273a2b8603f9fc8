"""What is installed by `pip install .` is the whole program: the wheel runs without the checkout."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import httpx

from tests.processes import PATIENCE_S, running_observer

_ROOT = Path(__file__).parent.parent


def test_the_wheel_runs_by_itself(tmp_path: Path) -> None:
    """It holds every file of the package, and the program that is in it serves its page."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=_ROOT, check=True, capture_output=True, timeout=PATIENCE_S)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    made = {path.relative_to(_ROOT) for path in (_ROOT / "sidecar").rglob("*") if _is_source(path)}
    assert {path for path in made if (_ROOT / path).is_file()} <= {
        path.relative_to(installed) for path in installed.rglob("*")
    }

    alone = {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}  # before the checkout, which is not even looked at
    code = [sys.executable, "-c", "import sidecar; print(sidecar.__file__)"]
    where = subprocess.run(code, env=alone, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert where.stdout.startswith(str(installed))
    with running_observer(tmp_path, **alone) as observer:
        assert "<html" in httpx.get(observer.url + "/", timeout=30).text


def _is_source(path: Path) -> bool:
    """Neither compiled nor what an editor leaves beside a file."""
    return "__pycache__" not in path.parts and not path.name.startswith((".", "#")) and not path.name.endswith("~")
