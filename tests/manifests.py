"""Reads the manifests, as written and as Kustomize prints them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
EXAMPLE = K8S / "examples" / "gateway"
EXPOSED = K8S / "examples" / "gateway-exposed"
OBSERVABILITY = K8S / "overlays" / "observability"
TARGETS = (EXAMPLE, EXPOSED, OBSERVABILITY)
"""What people apply."""

KUSTOMIZE = next((tool for tool in ("kustomize", "kubectl") if shutil.which(tool)), None)
needs_kustomize = pytest.mark.skipif(KUSTOMIZE is None, reason="neither kustomize nor kubectl is installed")

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def mounted_files() -> set[Path]:
    """Files that Kustomize puts into ConfigMaps: configuration of other programs."""
    return {
        kustomization.parent / file
        for kustomization in K8S.rglob("kustomization.yaml")
        for document in documents(kustomization)
        for generator in document.get("configMapGenerator", [])
        for file in generator["files"]
    }


FILES = sorted(set(K8S.rglob("*.yaml")) - mounted_files())


def pod_spec(workload: Document) -> Document:
    return dict(workload["spec"]["template"]["spec"])


def observer_of(workload: Document) -> Document:
    (found,) = (one for one in pod_spec(workload)["initContainers"] if one["name"] == "observer")
    return dict(found)


def environment(container: Document) -> dict[str, str]:
    """The container's variables; for the downward API the value is the field's path."""
    return {
        one["name"]: one["value"] if "value" in one else one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in container.get("env", [])
    }


def containers(workload: Document) -> list[Document]:
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def workloads(found: list[Document]) -> list[Document]:
    return [one for one in found if "template" in one.get("spec", {})]


def built(folder: Path) -> list[Document]:
    """Kustomize's output for *folder*."""
    assert KUSTOMIZE is not None
    command = [KUSTOMIZE, "build"] if KUSTOMIZE == "kustomize" else [KUSTOMIZE, "kustomize"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def built_of(folder: Path, resources: str, *components: str) -> dict[str, Document]:
    """Kustomize's output for the YAML *resources* with our *components*, by kind and name; *folder* is scratch."""
    (folder / "resources.yaml").write_text(resources, encoding="utf-8")
    used = [os.path.relpath((K8S / each).resolve(), folder.resolve()) for each in components]
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["resources.yaml"], "components": used}), encoding="utf-8"
    )
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in built(folder)}
