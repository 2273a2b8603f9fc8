"""Adapts Kustomize's output to podman. The differences, with reasons.

- Podman 4 waits for an init container to end even with `restartPolicy: Always`, so a native sidecar becomes a plain
  container, the first one. The test then has to stop the containers in order (`Pod.stop`).
- Of the downward API it supports only `metadata.name`, so the other fields are filled in.
- It would run HTTP probes as `curl` inside the container, which has none; the tests probe as the kubelet does.
- Podman 4.3 forgets to decode a Secret's base64 for a volume, so `podman_secret` has the plain values.
- There are no Services: container ports are published on free loopback ports instead.
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
    """*printed*, adapted to podman. *published*: container port → port on loopback."""
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
    return sorted(documents, key=lambda one: one["kind"] == "Deployment")  # volumes come before their user


def podman_secret(secret: Document) -> Document:
    """*secret* for `podman secret create`, with plain values."""
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
