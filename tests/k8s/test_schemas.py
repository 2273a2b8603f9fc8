"""What Kustomize prints is what Kubernetes knows: validated against its schemas, strictly."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.manifests import TARGETS, built, built_of, needs_kustomize
from tests.test_manifests_printed import workload

VALIDATE = Path(__file__).resolve().parents[2] / "build" / "k8s" / "bin" / "kubernetes-validate"
pytestmark = [
    needs_kustomize,
    pytest.mark.skipif(not os.environ.get("OBSERVER_TEST_K8S"), reason="run by `make test-k8s`"),
]
VERSIONS = ("1.29", "1.33", "1.37")
"""The first with native sidecars, one between, the newest that the validator knows."""


def verdict(path: Path, version: str) -> str:
    command = [str(VALIDATE), "--strict", "--quiet", "--kubernetes-version", version, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{done.returncode} {done.stdout}{done.stderr}".strip()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_is_valid(tmp_path: Path, target: Path, version: str) -> None:
    """No unknown field, no wrong type."""
    path = tmp_path / "printed.yaml"
    path.write_text(yaml.safe_dump_all(built(target)), encoding="utf-8")
    assert verdict(path, version) == "0"


@pytest.mark.parametrize("components", [("component",), ("component", "component/claim", "component/expose-proxy")])
def test_what_the_components_make_is_valid(tmp_path: Path, components: tuple[str, ...]) -> None:
    """Of Deployments, StatefulSets and Jobs with nothing but a label, and a selector, which is theirs to give."""
    resources = "---".join(workload(kind) for kind in ("Deployment", "StatefulSet", "Job"))
    path = tmp_path / "printed.yaml"
    found = built_of(tmp_path, resources, *components).values()
    for one in found:
        if one["kind"] in {"Deployment", "StatefulSet"}:
            one["spec"]["selector"] = {"matchLabels": {"observer.lakehouse/observed": "true"}}
        if one["kind"] == "StatefulSet":
            one["spec"]["serviceName"] = "watched"
    path.write_text(yaml.safe_dump_all(found), encoding="utf-8")
    assert verdict(path, VERSIONS[-1]) == "0"


def test_a_field_that_nobody_knows_is_found(tmp_path: Path) -> None:
    """The check can fail."""
    path = tmp_path / "wrong.yaml"
    path.write_text(workload("Job").replace("containers:", "contaners:"), encoding="utf-8")
    assert verdict(path, VERSIONS[-1]).startswith("1")
