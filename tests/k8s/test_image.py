"""The image: small, labelled, what the lock file says and no more, nothing to build or install with."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib

import pytest

from tests.k8s.pods import IMAGE, PODMAN_ENV, alone, missing, podman
from tests.manifests import ROOT

pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing() or "there")]

_LISTED = """
import importlib.metadata, json
print(json.dumps({each.name.lower().replace('_', '-'): each.version for each in importlib.metadata.distributions()}))
"""


def in_image(*command: str) -> subprocess.CompletedProcess[str]:
    run = ["podman", "run", "--rm", "--read-only", "--entrypoint", command[0], IMAGE, *command[1:]]
    return subprocess.run(run, env=PODMAN_ENV, capture_output=True, text=True, check=False)


def layers(image: str) -> str:
    return podman("image", "inspect", "--format", "{{.RootFS.Layers}}", image)


def config() -> dict[str, object]:
    (found,) = json.loads(podman("image", "inspect", IMAGE))
    return dict(found["Config"])


def test_it_is_the_locked_packages_and_the_observer() -> None:
    """Every package that is installed, as scanners list them, is of the lock file, in its version."""
    installed = json.loads(in_image("python", "-c", _LISTED).stdout)
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert installed.pop(project["name"]) == project["version"]
    assert installed
    assert installed.items() <= locked.items()


def test_there_is_nothing_to_build_or_install_with() -> None:
    """No compiler, no make, no pip."""
    for tool in ("cc", "gcc", "ld", "make", "pip", "pip3", "git", "curl", "wget"):
        assert in_image("sh", "-c", f"command -v {tool}").stdout == "", tool
    assert "No module named pip" in in_image("python", "-m", "pip").stderr


def test_it_says_what_it_is() -> None:
    """The OCI labels, and a user that is not root by number, as `runAsNonRoot` wants it."""
    found = config()
    labels = found["Labels"]
    assert isinstance(labels, dict)
    title = "org.opencontainers.image"
    assert labels[f"{title}.title"] == "lakehouse-observer"
    assert labels[f"{title}.licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}", labels[f"{title}.revision"])
    assert found["User"] == "65532:65532"


def test_it_runs_on_a_root_that_cannot_be_written() -> None:
    """`--help` and `doctor`, with nothing mounted."""
    assert "doctor" in alone("--help").stdout
    assert "settings" in alone("doctor").stdout


def test_bytecode_is_checked_by_hash() -> None:
    """So that it comes out the same in every build: flags 0b01 in each file's header."""
    code = (
        "import pathlib; files = list(pathlib.Path('/opt/observer').rglob('*.pyc'));"
        "print(len(files), {f.read_bytes()[4] for f in files})"
    )
    count, flags = in_image("python", "-c", code).stdout.split(maxsplit=1)
    assert int(count) > 100
    assert flags.strip() == "{1}"


@pytest.mark.timeout(580)
def test_a_second_build_comes_out_the_same() -> None:
    """From nothing but the same base and the same commit: the same bytes in every layer."""
    again = "localhost/lakehouse-observer:again"
    first = layers(IMAGE)
    built = subprocess.run(
        [str(ROOT / "tests" / "k8s" / "build.sh"), "--no-cache", "--tag", again],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    found = layers(again)
    podman("rmi", again)
    assert found == first
