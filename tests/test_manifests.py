"""The Kubernetes manifests and the Collector's configuration hold what the observer needs and refuse what hurts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from sidecar.settings import VARIABLES, Settings
from sidecar.settings_checks import PREFIX
from sidecar.spans.provider import our_resource
from tests.manifests import (
    EXAMPLE,
    FILES,
    K8S,
    ROOT,
    Document,
    containers,
    documents,
    environment,
    observer_of,
    pod_spec,
    workloads,
)

HEALTH_PORT = 3802


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
    named = [name for one in workloads(documents(path)) for each in containers(one) for name in environment(each)]
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


def test_the_journals_lie_on_a_bounded_volume(sidecar: Document) -> None:
    """`OBSERVER_DATA_DIR` is a mount of an emptyDir with a size limit."""
    observer = observer_of(sidecar)
    mounts = {mount["mountPath"]: mount["name"] for mount in observer["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod_spec(sidecar)["volumes"]}
    volume = volumes[mounts[environment(observer)["OBSERVER_DATA_DIR"]]]
    assert volume["emptyDir"]["sizeLimit"] == "2Gi"
    settings = Settings.from_env(environment(observer))
    assert settings.data_max_bytes <= 2**30  # the kubelet looks only now and then: far enough below it


def test_the_pods_grace_leaves_time_to_drain(sidecar: Document) -> None:
    """The pod's grace covers the gateway's stop and the observer's drain after it."""
    grace_s = Settings.from_env(environment(observer_of(sidecar))).grace
    (deployment,) = documents(EXAMPLE / "deployment.yaml")
    assert pod_spec(deployment)["terminationGracePeriodSeconds"] >= 2 * grace_s


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
