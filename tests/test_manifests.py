"""The Kubernetes manifests and the Collector's configuration hold what the observer needs and refuse what hurts."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.settings import VARIABLES, Settings
from sidecar.settings_checks import PREFIX
from sidecar.spans.provider import our_resource

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
FILES = sorted(K8S.rglob("*.yaml"))
EXAMPLE = K8S / "examples" / "gateway"
HEALTH_PORT = 3802
KUSTOMIZE = next((tool for tool in ("kustomize", "kubectl") if shutil.which(tool)), None)
needs_kustomize = pytest.mark.skipif(KUSTOMIZE is None, reason="neither kustomize nor kubectl is installed")

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def pod_spec(workload: Document) -> Document:
    return dict(workload["spec"]["template"]["spec"])


def observer_of(workload: Document) -> Document:
    (found,) = (one for one in pod_spec(workload)["initContainers"] if one["name"] == "observer")
    return dict(found)


def environment(container: Document) -> dict[str, str]:
    """Its variables; what the downward API fills in is the field's path."""
    return {
        one["name"]: one["value"] if "value" in one else one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in container["env"]
    }


def containers(workload: Document) -> list[Document]:
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def built(folder: Path) -> list[Document]:
    """What Kustomize makes of *folder*."""
    assert KUSTOMIZE is not None
    command = [KUSTOMIZE, "build"] if KUSTOMIZE == "kustomize" else [KUSTOMIZE, "kustomize"]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@pytest.fixture
def sidecar() -> Document:
    """The patch that adds the observer."""
    (patch,) = documents(K8S / "component" / "sidecar.yaml")
    return patch


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(K8S)))
def test_every_manifest_names_its_kind(path: Path) -> None:
    """Each file is YAML, and each document in it says what it is."""
    found = documents(path)
    assert found
    assert all(document.get("apiVersion") and document.get("kind") for document in found)


def test_the_observer_accepts_the_environment_that_the_manifest_gives_it(sidecar: Document) -> None:
    """The same checks as at start: no unknown name, no unusable value, no door beyond loopback without a token."""
    env = environment(observer_of(sidecar))
    settings = Settings.from_env(env)
    assert settings.data_dir == "/data"
    assert settings.health_port == HEALTH_PORT
    assert settings.health_host == "0.0.0.0"
    assert settings.export_endpoint


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(K8S)))
def test_every_variable_in_the_manifests_is_one_that_the_observer_reads(path: Path) -> None:
    """OBSERVER_* names are settings; K8S_* names reach the resource attributes."""
    named = [
        variable["name"]
        for document in documents(path)
        if "template" in document.get("spec", {})
        for container in containers(document)
        for variable in container.get("env", [])
    ]
    assert {name for name in named if name.startswith(PREFIX)} <= set(VARIABLES.values())
    for name in named:
        if name.startswith("K8S_"):
            assert "its value" in our_resource("", {name: "its value"}).attributes.values(), name


def test_the_pod_tells_the_observer_where_it_runs(sidecar: Document) -> None:
    """All five `k8s.*` attributes come from the downward API, and with them `service.instance.id`."""
    resource = our_resource("observer", environment(observer_of(sidecar))).attributes
    assert resource["k8s.pod.name"] == "metadata.name"
    assert resource["k8s.pod.uid"] == "metadata.uid"
    assert resource["k8s.namespace.name"] == "metadata.namespace"
    assert resource["k8s.node.name"] == "spec.nodeName"
    assert resource["k8s.container.name"] == "observer"
    assert resource["service.instance.id"] == "metadata.namespace.metadata.name.observer"


def test_the_observer_is_a_native_sidecar_in_a_pod_without_service_links(sidecar: Document) -> None:
    """It starts before the gateway and goes on beside it; no Service can inject its settings."""
    assert observer_of(sidecar)["restartPolicy"] == "Always"
    assert pod_spec(sidecar)["enableServiceLinks"] is False


def test_probes_ask_about_the_observer_alone(sidecar: Document) -> None:
    """Start and liveness on the health port; no readiness probe, so nothing of ours makes the Pod unready."""
    observer = observer_of(sidecar)
    ports = {port["name"]: port["containerPort"] for port in observer["ports"]}
    for name in ("startupProbe", "livenessProbe"):
        request = observer[name]["httpGet"]
        assert request["path"] == "/livez"
        assert ports[request["port"]] == HEALTH_PORT
        assert "host" not in request
    assert "readinessProbe" not in observer
    assert list(ports.values()) == [HEALTH_PORT]


def test_every_container_meets_the_restricted_pod_security_level() -> None:
    """Non-root, read-only root, no escalation, no capability, the runtime's seccomp profile, and limits."""
    checked = 0
    for path in (K8S / "component" / "sidecar.yaml", EXAMPLE / "deployment.yaml"):
        for container in containers(documents(path)[0]):
            security = container["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] > 0
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            checked += 1
    assert checked == 2


def test_the_journals_lie_on_a_bounded_volume(sidecar: Document) -> None:
    """`OBSERVER_DATA_DIR` is a mount of an emptyDir with a size limit."""
    observer = observer_of(sidecar)
    mounts = {mount["mountPath"]: mount["name"] for mount in observer["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec(sidecar)["volumes"]}
    volume = volumes[mounts[environment(observer)["OBSERVER_DATA_DIR"]]]
    assert volume["emptyDir"]["sizeLimit"]


def test_the_pods_grace_leaves_time_to_drain(sidecar: Document) -> None:
    """The pod's grace covers the gateway's stop and the observer's drain after it."""
    grace_s = Settings.from_env(environment(observer_of(sidecar))).grace
    (deployment,) = documents(EXAMPLE / "deployment.yaml")
    assert pod_spec(deployment)["terminationGracePeriodSeconds"] >= 2 * grace_s


def test_images_are_pinned_in_one_place() -> None:
    """Workloads name the image bare; the component's `images` gives it a version, and that is not `latest`."""
    (component,) = documents(K8S / "component" / "kustomization.yaml")
    pinned = {image["name"]: image.get("newTag") or image["digest"] for image in component["images"]}
    assert "latest" not in pinned.values()
    for path in FILES:
        for document in documents(path):
            if "template" in document.get("spec", {}):
                assert {container["image"] for container in containers(document)} <= set(pinned), path


def test_image_and_manifests_carry_the_projects_version() -> None:
    """The Dockerfile's label and the component's tag follow pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    (component,) = documents(K8S / "component" / "kustomization.yaml")
    assert [image["newTag"] for image in component["images"]] == [version]
    assert f"ARG VERSION={version}\n" in (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_no_service_injects_settings_of_the_observer() -> None:
    """A Service named `observer…` would become OBSERVER_* variables in other pods of its namespace."""
    services = [one for path in FILES for one in documents(path) if one["kind"] == "Service"]
    assert services
    assert not [one for one in services if one["metadata"]["name"].startswith("observer")]


@needs_kustomize
def test_the_example_builds_with_the_observer_first() -> None:
    """Kustomize prints a Deployment in which the whole patch has arrived and both images have a version."""
    (deployment,) = (one for one in built(EXAMPLE) if one["kind"] == "Deployment")
    (patch,) = documents(K8S / "component" / "sidecar.yaml")
    wanted, found = observer_of(patch), observer_of(deployment)
    assert {**found, "image": wanted["image"]} == wanted
    assert pod_spec(deployment)["enableServiceLinks"] is False
    images = [container["image"] for container in containers(deployment)]
    assert len(images) == 2
    assert all(":" in image and not image.endswith(":latest") for image in images)


WORKLOADS = """
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: watched
  labels:
    observer.lakehouse/inject: "true"
spec:
  template:
    spec:
      initContainers:
        - name: migrate
          image: migrate:1
      containers:
        - name: gateway
          image: gateway:1
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: alone
spec:
  template:
    spec:
      containers:
        - name: gateway
          image: gateway:1
"""


@needs_kustomize
def test_only_labelled_workloads_are_observed_and_keep_what_they_had(tmp_path: Path) -> None:
    """A StatefulSet keeps its own init container and gets ours before it; an unlabelled Deployment is left alone."""
    (tmp_path / "workloads.yaml").write_text(WORKLOADS, encoding="utf-8")
    component = os.path.relpath((K8S / "component").resolve(), tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["workloads.yaml"], "components": [component]}), encoding="utf-8"
    )
    found = {one["metadata"]["name"]: one for one in built(tmp_path)}
    assert [one["name"] for one in containers(found["watched"])] == ["observer", "migrate", "gateway"]
    assert pod_spec(found["alone"]) == {"containers": [{"name": "gateway", "image": "gateway:1"}]}


def test_the_collectors_configuration_opens_with_its_table_of_contents() -> None:
    """`service` comes first; what the pipelines use is configured, and what is configured is used."""
    (config,) = documents(ROOT / "otel-collector.yaml")
    assert next(iter(config)) == "service"
    pipelines, connectors = config["service"]["pipelines"].values(), set(config["connectors"])
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines for name in pipeline[kind]}
        assert used - connectors == set(config[kind])
        assert kind == "processors" or connectors <= used  # the end of one pipeline, the beginning of another
    assert config["service"]["pipelines"]["traces"]["processors"][0] == "memory_limiter"
