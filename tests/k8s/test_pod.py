"""The exposed example as a Pod: agents outside are observed, and nobody gets more than their token says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.k8s.pods import DOOR, GATEWAY, HEALTH, IMAGE, POD, PODMAN_ENV, PROXY, Pod, eventually, podman

CALL = {"role": "welder", "city": "Denver"}
REFUSED = {"role": "welder", "city": "Boise"}

_ASKS = """
import json, sys, httpx
for method, url, token in json.load(sys.stdin):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = httpx.request(method, url, headers=headers, json={} if method == "POST" else None, timeout=20)
    print(json.dumps([answer.status_code, answer.text]))
"""


def from_another_pod(pod: Pod, *asked: tuple[str, int, str, str]) -> list[tuple[int, str]]:
    """What a container in a Pod of its own is answered; *asked* are method, port, path and token."""
    (network,) = json.loads(podman("pod", "inspect", "--format", "{{json .InfraConfig.Networks}}", POD))
    infra = json.loads(podman("inspect", podman("pod", "inspect", "--format", "{{.InfraContainerID}}", POD).strip()))
    address = infra[0]["NetworkSettings"]["Networks"][network]["IPAddress"]
    questions = [(method, f"http://{address}:{port}{path}", token) for method, port, path, token in asked]
    command = ["run", "--rm", "--interactive", "--network", network, "--entrypoint", "python", IMAGE, "-c", _ASKS]
    answers = podman(*command, given=json.dumps(questions))
    return [(status, text) for status, text in map(json.loads, answers.splitlines())]


def test_calls_of_an_agent_outside_become_ops_incidents_and_playbooks(pod: Pod) -> None:
    """It changes its gateway's port to the exposed proxy's, and nothing else."""
    for body in [CALL] * 12 + [REFUSED] * 4:
        direct = httpx.post(f"{pod.url[GATEWAY]}/tools/search_workers", json=body, trust_env=False)
        proxied = httpx.post(f"{pod.url[PROXY]}/tools/search_workers", json=body, trust_env=False)
        assert proxied.status_code == direct.status_code
        assert proxied.headers["X-Observer-Trace-Id"]
    ops = eventually(lambda: found if len(found := pod.get("/ops?limit=100")["ops"]) >= 16 else None)
    assert {op["endpoint"] for op in ops} == {"/tools/search_workers"}
    assert sum(not op["success"] for op in ops) >= 4
    incident = eventually(lambda: [one for one in pod.get("/incidents")["incidents"] if "Boise" in one["message"]])[0]
    assert incident["count"] >= 4
    assert eventually(lambda: pod.get("/playbooks")["playbooks"])


def test_it_learns_at_its_own_place_in_the_cluster(pod: Pod) -> None:
    """Resource attributes from the downward API reach the metrics."""
    text = httpx.get(f"{pod.url[DOOR]}/metrics", headers={"Authorization": "Bearer all"}, trust_env=False).text
    (target,) = (line for line in text.splitlines() if line.startswith("target_info"))
    assert f'k8s_pod_name="{POD}"' in target
    assert f'service_instance_id="default.{POD}.observer"' in target


def test_another_pod_gets_what_its_token_says(pod: Pod) -> None:
    """None: 401. One for ingest may report, and neither read nor decide. Health is for everyone, and tells no more."""
    asked: dict[tuple[str, int, str, str], int] = {
        ("GET", DOOR, "/ops", ""): 401,
        ("GET", DOOR, "/stats", ""): 401,
        ("POST", DOOR, "/event", ""): 401,
        ("GET", DOOR, "/metrics", ""): 401,
        ("GET", DOOR, "/ops", "wrong"): 401,
        ("POST", DOOR, "/event", "ingest"): 200,
        ("GET", DOOR, "/ops", "ingest"): 403,
        ("GET", DOOR, "/playbooks", "ingest"): 403,
        ("POST", DOOR, "/incidents/inc-0/ignore", "ingest"): 403,
        ("POST", DOOR, "/playbooks/pb-0/retire", "ingest"): 403,
        ("POST", DOOR, "/playbooks/pb-0/retire", ""): 401,
        ("GET", DOOR, "/ops", "all"): 200,
        ("GET", HEALTH, "/livez", ""): 200,
        ("GET", HEALTH, "/health", ""): 200,
        ("GET", HEALTH, "/ops", ""): 404,
        ("GET", HEALTH, "/metrics", ""): 404,
    }
    answers = dict(zip(asked, from_another_pod(pod, *asked), strict=True))
    assert {one: status for one, (status, _) in answers.items()} == asked
    assert json.loads(answers["GET", HEALTH, "/health", ""][1]) == {"status": "ok"}


@pytest.mark.parametrize("container", ["observer", "gateway"])
def test_the_containers_can_do_no_harm(pod: Pod, container: str) -> None:
    """Another user than root, no capability, no new privileges, a seccomp filter, and a root that cannot be written."""
    status = Path(f"/proc/{pod.pid(container)}/status").read_text(encoding="ascii")
    told = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(told["Uid"].split()) == {"65532"}
    assert int(told["CapEff"], 16) == int(told["CapBnd"], 16) == 0
    assert told["NoNewPrivs"] == "1"
    assert told["Seccomp"] == "2"
    wrote = _python(container, "open('/opt/observer/x', 'w')")
    assert "Read-only file system" in wrote.stderr


def test_the_journal_is_the_observers_alone(pod: Pod) -> None:
    """Files of mode 0600, in a folder on the volume."""
    told = _python("observer", "import os; print([oct(os.stat('/data/' + n).st_mode)[-3:] for n in ('ops.jsonl',)])")
    assert told.stdout.strip() == "['600']"


def test_doctor_runs_in_the_container(pod: Pod) -> None:
    """As docs/kubernetes.md has people look from inside; the observer's own ports are in use, by the observer."""
    told = podman("exec", f"{POD}-observer", "observer", "doctor", check=False)
    assert "gateway      " in told
    assert "fail  gateway" not in told


def _python(container: str, code: str) -> subprocess.CompletedProcess[str]:
    command = ["podman", "exec", f"{POD}-{container}", "python", "-c", code]
    return subprocess.run(command, env=PODMAN_ENV, capture_output=True, text=True, check=False)
