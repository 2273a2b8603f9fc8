"""What Kustomize prints of every target: the whole sidecar arrives, no Pod is less safe for it, images are pinned."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pytest

from sidecar.settings import Settings
from tests.manifests import (
    EXAMPLE,
    EXPOSED,
    K8S,
    OBSERVABILITY,
    ROOT,
    TARGETS,
    Document,
    built,
    built_of,
    containers,
    documents,
    environment,
    needs_kustomize,
    observer_of,
    pod_spec,
    workloads,
)

pytestmark = [needs_kustomize]
by_name = [pytest.param(target, id=target.name) for target in TARGETS]

WORKLOAD = """
apiVersion: {api}
kind: {kind}
metadata:
  name: {name}
  labels: {{{label}}}
spec:
  template:
    spec:
      initContainers:
        - name: migrate
          image: migrate:1
      containers:
        - name: gateway
          image: gateway:1
"""
LABEL = 'observer.lakehouse/inject: "true"'
DIGEST = f"sha256:{'0' * 64}"


def workload(kind: str, label: str = LABEL, name: str = "watched") -> str:
    return WORKLOAD.format(api="batch/v1" if kind == "Job" else "apps/v1", kind=kind, name=name, label=label)


def test_the_example_is_observed_by_the_whole_sidecar() -> None:
    """Kustomize prints a Deployment in which all of the patch has arrived."""
    (deployment,) = workloads(built(EXAMPLE))
    (patch,) = documents(K8S / "component" / "sidecar.yaml")
    wanted, found = observer_of(patch), observer_of(deployment)
    assert {**found, "image": wanted["image"]} == wanted
    assert pod_spec(deployment)["enableServiceLinks"] is False


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job"])
def test_labelled_workloads_of_each_kind_are_observed_and_keep_what_they_had(tmp_path: Path, kind: str) -> None:
    """Their own init container stays, and ours stands before it; a workload without the label is left alone."""
    found = built_of(tmp_path, f"{workload(kind)}---{workload('Deployment', '', 'alone')}", "component")
    assert [one["name"] for one in containers(found[f"{kind}/watched"])] == ["observer", "migrate", "gateway"]
    assert found[f"{kind}/watched"]["spec"]["template"]["metadata"]["labels"] == {"observer.lakehouse/observed": "true"}
    assert [one["name"] for one in containers(found["Deployment/alone"])] == ["migrate", "gateway"]


def test_a_claim_takes_the_place_of_the_empty_folder(tmp_path: Path) -> None:
    """A Deployment is recreated with one claim, a StatefulSet has one for each replica."""
    resources = f"{workload('Deployment')}---{workload('StatefulSet')}"
    found = built_of(tmp_path, resources, "component", "component/claim")
    deployment, stateful = found["Deployment/watched"], found["StatefulSet/watched"]
    (volume,) = pod_spec(deployment)["volumes"]
    assert volume == {"name": "observer-data", "persistentVolumeClaim": {"claimName": "observer-data"}}
    assert "PersistentVolumeClaim/observer-data" in found
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert not pod_spec(stateful).get("volumes")
    assert [each["metadata"]["name"] for each in stateful["spec"]["volumeClaimTemplates"]] == ["observer-data"]


def test_exposed_doors_take_tokens_and_the_observer_accepts_it() -> None:
    """Beyond loopback: the settings are good, the tokens are mounted, each Service port has its container port."""
    found = built(EXPOSED)
    (deployment,) = workloads(found)
    observer = observer_of(deployment)
    settings = Settings.from_env(environment(observer))
    assert (settings.host, settings.proxy_host, settings.proxy_expose) == ("0.0.0.0", "0.0.0.0", True)
    (folder,) = (mount for mount in observer["volumeMounts"] if mount["name"] == "observer-tokens")
    assert settings.token_file.startswith(folder["mountPath"] + "/")
    (service,) = (one for one in found if one["kind"] == "Service")
    named = {port["name"]: port["containerPort"] for each in containers(deployment) for port in each["ports"]}
    assert {port["port"] for port in service["spec"]["ports"]} == {3700, 3701, 3800, 4317}
    assert all(named[port["targetPort"]] == port["port"] for port in service["spec"]["ports"])
    assert service["metadata"]["name"] in settings.allowed_hosts.split(",")


@pytest.mark.parametrize("target", by_name)
def test_every_container_meets_the_restricted_pod_security_level(target: Path) -> None:
    """Non-root, no escalation, no capability, the runtime's seccomp profile, a read-only root, nothing of the host."""
    found = workloads(built(target))
    assert found
    for one in found:
        spec = pod_spec(one)
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert all({"emptyDir", "configMap", "secret"} & volume.keys() for volume in spec.get("volumes", []))
        assert spec["automountServiceAccountToken"] is False
        for container in containers(one):
            security = container["securityContext"]
            assert security["runAsNonRoot"] is True
            assert security["runAsUser"] > 0
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
            assert not any("hostPort" in port for port in container["ports"])


@pytest.mark.parametrize("target", by_name)
def test_every_container_is_bounded_and_probed(target: Path) -> None:
    """Requests and limits, bounded scratch space; a liveness probe of the sidecar, a readiness probe of the others."""
    for one in workloads(built(target)):
        volumes = pod_spec(one).get("volumes", [])
        assert all(volume["emptyDir"].get("sizeLimit") for volume in volumes if "emptyDir" in volume)
        for container in containers(one):
            assert set(container["resources"]["limits"]) == {"cpu", "memory"}
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert ("livenessProbe" if container["name"] == "observer" else "readinessProbe") in container


@pytest.mark.parametrize("target", by_name)
def test_images_have_a_version_or_a_digest(target: Path) -> None:
    """And never `latest`, or nothing."""
    for one in workloads(built(target)):
        for container in containers(one):
            name, _, version = container["image"].rpartition("@" if "@" in container["image"] else ":")
            assert name
            assert version != "latest"


def test_a_digest_of_ones_own_goes_over_the_components_tag(tmp_path: Path) -> None:
    """As the README says: `images` in one's own kustomization, with registry and digest."""
    (tmp_path / "kustomization.yaml").write_text(
        json.dumps(
            {
                "resources": [_relative(EXAMPLE, tmp_path)],
                "images": [
                    {"name": "lakehouse-observer", "newName": "registry.example/o", "digest": f"sha256:{'0' * 64}"}
                ],
            }
        ),
        encoding="utf-8",
    )
    (deployment,) = workloads(built(tmp_path))
    assert {one["image"] for one in containers(deployment)} == {f"registry.example/o@sha256:{'0' * 64}"}


def test_everything_that_is_spoken_to_is_let_in() -> None:
    """Each Service has pods, and each port that the observability pods speak to is open to them in a NetworkPolicy."""
    found = built(OBSERVABILITY)
    pods = {_app(one["spec"]["template"]["metadata"]["labels"]): one for one in workloads(found)}
    services = {one["metadata"]["name"]: one for one in found if one["kind"] == "Service"}
    assert {_app(one["spec"]["selector"]) for one in services.values()} == set(pods)
    spoken = {
        ("otel-collector", "jaeger", 4317),
        ("otel-collector", "tempo", 4317),
        ("prometheus", "otel-collector", 8889),
        ("grafana", "prometheus", 9090),
        ("grafana", "jaeger", 16686),
        ("grafana", "tempo", 3200),
    }
    policies = [one["spec"] for one in found if one["kind"] == "NetworkPolicy"]
    for caller, called, port in spoken:
        assert port in {each["port"] for each in services[called]["spec"]["ports"]}
        assert any(_lets_in(policy, caller, called, port) for policy in policies), (caller, called, port)
    ports = [(name, each["port"]) for name, one in services.items() for each in one["spec"]["ports"]]
    everyone = {(caller, name, port) for caller, (name, port) in itertools.product(pods, ports)}
    let_in = {one for one in everyone if any(_lets_in(policy, *one) for policy in policies)}
    assert let_in == spoken


def test_config_maps_can_be_applied() -> None:
    """`kubectl apply` keeps a copy in an annotation, which may have 256 KiB."""
    maps = [one for one in built(OBSERVABILITY) if one["kind"] == "ConfigMap"]
    assert maps
    assert all(len(json.dumps(one)) < 250_000 for one in maps)


def _relative(target: Path, folder: Path) -> str:
    return os.path.relpath(target.resolve(), folder.resolve())


def _app(labels: Document) -> str:
    return str(labels["app.kubernetes.io/name"])


def _selects(selector: Document, app: str) -> bool:
    if "matchExpressions" in selector:
        (expression,) = selector["matchExpressions"]
        return app in expression["values"]
    return bool(selector.get("matchLabels", {"app.kubernetes.io/name": app}) == {"app.kubernetes.io/name": app})


def _lets_in(policy: Document, caller: str, called: str, port: int) -> bool:
    return _selects(policy["podSelector"], called) and any(
        port in {each["port"] for each in rule["ports"]}
        and any(_selects(peer["podSelector"], caller) for peer in rule["from"])
        for rule in policy.get("ingress", [])
    )


@pytest.mark.parametrize("page", ["docs/kubernetes.md", "README.md"])
def test_what_the_documentation_says_to_write_works(tmp_path: Path, page: str) -> None:
    """Its YAML, as it stands but for the path and the digest, beside a Deployment called agent-gateway."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    text = "".join(block for block in blocks if re.match(r"\s*(observer\.lakehouse|components|patches)", block))
    label, _, rest = text.partition("\n")
    (tmp_path / "deployment.yaml").write_text(workload("Deployment", label.strip(), "agent-gateway"), encoding="utf-8")
    rest = rest.replace("path/to/lakehouse-observer/k8s/component", _relative(K8S / "component", tmp_path))
    kustomization = f"resources: [deployment.yaml]\n{rest.replace('sha256:…', DIGEST)}"
    (tmp_path / "kustomization.yaml").write_text(kustomization, encoding="utf-8")
    (deployment,) = built(tmp_path)
    observer = observer_of(deployment)
    assert observer["image"].startswith("your.registry/lakehouse-observer")
    assert Settings.from_env(environment(observer)).export_endpoint
    if "patches:" in text:
        assert environment(observer)["GATEWAY_URL"] == "http://localhost:8080"
