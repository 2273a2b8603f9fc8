"""The one change between what Kustomize prints and what podman is given, and why.

- Podman 4 takes an init container with `restartPolicy: Always` for one that must end before the others start, so a
  native sidecar becomes a plain container, the first one. Stopping in order is then the test's work (`Pod.stop`).
- It knows `metadata.name` of the downward API only, so the other fields are filled in.
- It would run HTTP probes as `curl` inside of the container, and there is none; the tests ask as the kubelet does.
- Podman 4.3 forgets to decode a Secret's base64 for a volume, so `podman_secret` has the plain values.
- There are no Services: what a Service would lead to is published on loopback, at a free port.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from typing import Any

from tests.manifests import Document, workloads

_FIELDS = {
    "metadata.name": "agent-gateway-pod-0",
    "metadata.uid": "6f0b2a31-0000-4000-8000-000000000000",
    "metadata.namespace": "default",
    "spec.nodeName": "node-of-the-test",
}
_KEPT = ("Deployment", "PersistentVolumeClaim")
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def for_podman(printed: list[Document], published: Mapping[int, int]) -> list[Document]:
    """*printed* as podman can play it; container ports that *published* names come out at its ports on loopback."""
    documents = [copy.deepcopy(one) for one in printed if one["kind"] in _KEPT]
    for workload in workloads(documents):
        spec = workload["spec"]["template"]["spec"]
        first = spec.pop("initContainers", [])
        sidecars = [one for one in first if one.pop("restartPolicy", None) == "Always"]
        if waiting := [one for one in first if one not in sidecars]:
            spec["initContainers"] = waiting
        spec["containers"] = [*sidecars, *spec["containers"]]
        for container in spec["containers"]:
            _adapt(container, published)
    return sorted(documents, key=lambda one: one["kind"] == "Deployment")  # what it mounts comes first


def podman_secret(secret: Document) -> Document:
    """*secret* for `podman secret create`, its values as they shall be read."""
    return {**secret, "data": {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}}


def _adapt(container: dict[str, Any], published: Mapping[int, int]) -> None:
    for probe in _PROBES:
        container.pop(probe, None)
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            variable["value"] = _FIELDS[variable.pop("valueFrom")["fieldRef"]["fieldPath"]]
    container["ports"] = [
        {**port, "hostIP": "127.0.0.1", "hostPort": published[port["containerPort"]]}
        for port in container.get("ports", [])
        if port["containerPort"] in published
    ]
    container["imagePullPolicy"] = "Never"
