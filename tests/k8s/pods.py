"""Runs a Pod under podman from Kustomize's output, inspects it from outside and inside, and stops it in order."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.k8s.for_podman import for_podman, podman_secret
from tests.manifests import K8S, KUSTOMIZE, Document, built, workloads
from tests.peers.peers import free_ports, waited_for

IMAGE = "localhost/lakehouse-observer:0.1.0"
POD = "agent-gateway-pod-0"
NETWORK = "podman"  # its default bridge
GATEWAY, PROXY, DOOR, HEALTH = 3700, 3701, 3800, 3802
PORTS = (GATEWAY, PROXY, DOOR, HEALTH)
TOKENS = {"all": "ingest,advice,read,admin", "ingest": "ingest"}
"""The tests' tokens and their scopes; each token is named after what it may do."""

PODMAN_ENV = {**os.environ, "CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}
_PATIENCE_S = 120


def podman(*arguments: str, check: bool = True, given: str = "") -> str:
    """Run podman with *given* as standard input; return its output."""
    done = subprocess.run(
        ["podman", *arguments],
        env=PODMAN_ENV,
        input=given,
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def missing() -> str:
    """Why no Pod can be run here; "" if one can."""
    absent = [name for name in ("podman", "runc") if not shutil.which(name)]
    if not os.environ.get("OBSERVER_TEST_K8S"):
        return "run by `make test-k8s`"
    if absent or KUSTOMIZE is None:
        return f"not installed: {', '.join(absent) or 'kubectl'}"
    if os.geteuid() != 0:
        return "podman is run as root here"
    command = ["podman", "image", "exists", IMAGE]
    built_already = subprocess.run(command, env=PODMAN_ENV, capture_output=True, check=False).returncode == 0
    return "" if built_already else f"{IMAGE} is not there: tests/k8s/build.sh"


def secret() -> Document:
    """The Secret with the tests' tokens, as kubectl makes it."""
    lines = "\n".join(f"{name} {scopes}" for name, scopes in TOKENS.items())
    command = ["kubectl", "create", "secret", "generic", "observer-tokens", f"--from-literal=tokens={lines}"]
    made = subprocess.run([*command, "--dry-run=client", "-o", "yaml"], capture_output=True, text=True, check=True)
    return dict(yaml.safe_load(made.stdout))


def alone(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the image as a single read-only container with the environment *variables*."""
    given = [part for name, value in variables.items() for part in ("--env", f"{name}={value}")]
    command = ["podman", "run", "--rm", "--read-only", *given, IMAGE, *arguments]
    return subprocess.run(command, env=PODMAN_ENV, capture_output=True, text=True, check=False, timeout=_PATIENCE_S)


class Pod:
    """A running Pod of the exposed example. `url[port]`: the address of a container's port on this machine."""

    def __init__(self, manifest: Path, ports: dict[int, int]) -> None:
        self.manifest = manifest
        self.url = {port: f"http://127.0.0.1:{published}" for port, published in ports.items()}
        self.client = httpx.Client(trust_env=False, timeout=30, headers={"Authorization": "Bearer all"})

    def get(self, path: str) -> Any:
        """GET *path* from the observer with a token of all scopes."""
        answer = self.client.get(f"{self.url[DOOR]}{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def is_alive(self) -> bool | None:
        """Whether the kubelet's probe would succeed."""
        return self._answers("/livez")

    def is_ready(self) -> bool | None:
        """Whether every door is open; later than `is_alive` if a journal is replayed first."""
        return self._answers("/readyz")

    def _answers(self, path: str) -> bool | None:
        try:
            return self.client.get(f"{self.url[HEALTH]}{path}").status_code == 200 or None
        except httpx.HTTPError:
            return None

    def state(self, container: str = "observer") -> dict[str, Any]:
        """The container's state, from `podman inspect`."""
        (found,) = json.loads(podman("inspect", f"{POD}-{container}"))
        return dict(found)

    def pid(self, container: str = "observer") -> int:
        """Pid of the container's first process; 0 while it is not running."""
        return int(self.state(container)["State"]["Pid"])

    def kill(self, container: str = "observer") -> None:
        """SIGKILL the container's first process, as the kernel's OOM killer does."""
        os.kill(self.pid(container), signal.SIGKILL)

    def logs(self, container: str = "observer") -> str:
        """The container's output on both streams."""
        command = ["podman", "logs", f"{POD}-{container}"]
        done = subprocess.run(
            command, env=PODMAN_ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        )
        return done.stdout

    def stop(self, grace_s: int = 30) -> float:
        """Stop as the kubelet does: gateway, then sidecar in the time left. Returns the seconds the sidecar took."""
        started = time.monotonic()
        podman("stop", "--time", str(grace_s), f"{POD}-gateway")
        left = max(1, grace_s - int(time.monotonic() - started))
        since = time.monotonic()
        podman("stop", "--time", str(left), f"{POD}-observer")
        return time.monotonic() - since

    def inside(self, command: Sequence[str]) -> list[str]:
        """The command line that runs *command* in the Pod's network namespace."""
        return ["nsenter", "--target", str(self.pid("gateway")), "--net", "--", *command]


def customized(folder: Path, *patches: Document, components: Sequence[str] = ()) -> list[Document]:
    """Kustomize's output for the exposed example with additional *patches* and *components*."""
    relative = [os.path.relpath((K8S / each).resolve(), folder.resolve()) for each in components]
    example = os.path.relpath((K8S / "examples" / "gateway-exposed").resolve(), folder.resolve())
    kustomization = {
        "resources": [example],
        "components": relative,
        "patches": [{"patch": yaml.safe_dump(patch)} for patch in patches],
        "images": [{"name": "lakehouse-observer", "newName": IMAGE.partition(":")[0]}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return built(folder)


def patch(observer: dict[str, Any] | None = None, gateway: dict[str, Any] | None = None) -> Document:
    """A patch of the example's Deployment, for its two containers."""
    spec = {
        "initContainers": [{"name": "observer", **(observer or {})}],
        "containers": [{"name": "gateway", **(gateway or {})}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "agent-gateway"},
        "spec": {"template": {"spec": spec}},
    }


def settings(**variables: str) -> dict[str, Any]:
    """A container's environment, for `patch`."""
    return {"env": [{"name": name, "value": value} for name, value in variables.items()]}


@contextlib.contextmanager
def played(folder: Path, printed: list[Document]) -> Iterator[Pod]:
    """Run *printed* under podman; the end of the block removes Pod and volumes. It may not be ready yet."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    manifest, tokens = folder / "for-podman.yaml", folder / "secret.yaml"
    manifest.write_text(yaml.safe_dump_all(for_podman(printed, ports)), encoding="utf-8")
    tokens.write_text(yaml.safe_dump(podman_secret(secret())), encoding="utf-8")
    pod = Pod(manifest, ports)
    removed()
    podman("secret", "create", "observer-tokens", str(tokens))
    podman("kube", "play", "--network", NETWORK, str(manifest))
    try:
        yield pod
    finally:
        pod.client.close()
        removed()


@contextlib.contextmanager
def running_pod(folder: Path, printed: list[Document]) -> Iterator[Pod]:
    """As `played`, once the sidecar's doors are open."""
    with played(folder, printed) as pod:
        waited_for(pod.is_ready)
        yield pod


def removed() -> None:
    """Remove the Pod, volumes and secret of this or an earlier run."""
    podman("pod", "rm", "--force", "--time", "0", POD, check=False)
    podman("volume", "rm", "--force", "observer-data", "observer-tokens", "tmp", check=False)
    podman("secret", "rm", "observer-tokens", check=False)


def replayed(pod: Pod) -> None:
    """Replace the Pod by a new one from the same manifest, with the volumes that the old one left."""
    podman("pod", "rm", "--force", "--time", "0", POD)
    podman("volume", "rm", "--force", "observer-tokens", check=False)
    again = pod.manifest.with_name("again.yaml")
    documents = yaml.safe_load_all(pod.manifest.read_text(encoding="utf-8"))
    again.write_text(yaml.safe_dump_all(workloads(list(documents))), encoding="utf-8")  # the claim exists already
    podman("kube", "play", "--network", NETWORK, str(again))
    waited_for(pod.is_ready)


def eventually(look: Callable[[], Any]) -> Any:
    """Poll *look* until its result is truthy; return that. Raises TimeoutError."""
    return waited_for(lambda: look() or None)
