"""What may happen to a Pod: the sidecar dies under load, the Pod is rolled, the gateway is late, settings are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tests.k8s.pods import (
    PROXY,
    Pod,
    alone,
    customized,
    eventually,
    patch,
    played,
    podman,
    replayed,
    running_pod,
    settings,
)
from tests.k8s.under_load import calls, load, unanswered

QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
GRACE_S = 8


def acknowledged(lines: Path) -> set[str]:
    """The ids of the events that were answered with 200."""
    return {one["id"] for one in calls(lines, "events") if one["outcome"] == "200"}


def journalled() -> set[str]:
    """The ids in the journal, as it lies on the volume."""
    (volume,) = json.loads(podman("volume", "inspect", "observer-data"))
    journal = "".join(path.read_text() for path in Path(volume["Mountpoint"]).glob("ops*.jsonl"))
    ops = [json.loads(line) for line in journal.splitlines() if line.startswith("{")]
    return {op["event_id"] for op in ops if "event_id" in op}


def test_the_sidecar_dies_under_load(folder: Path) -> None:
    """Calls straight to the gateway go on; the sidecar comes back, refills, and has all that it acknowledged."""
    lines = folder / "calls.jsonl"
    with running_pod(folder, customized(folder, patch(settings(**QUIET)))) as pod:
        with load(pod, lines, 15, proxied=20, direct=50, events=50):
            eventually(lambda: pod.get("/stats")["total"] > 100)
            before = pod.pid()
            pod.kill()
            eventually(lambda: pod.pid() not in {0, before})
            eventually(pod.is_ready)
        assert pod.state()["RestartCount"] == 1
        assert unanswered(lines, "direct") == 0
        assert len(calls(lines, "direct")) == 15 * 50
        ids = acknowledged(lines)
        assert 200 < len(ids) < 15 * 50  # some were acknowledged, and some met a dead sidecar
        assert ids <= journalled()
        assert eventually(lambda: pod.get("/stats")["total"] >= len(ids))  # of both lives: the ring was filled again
        assert httpx.post(f"{pod.url[PROXY]}/tools/ask", json={"role": "welder", "city": "Reno"}, trust_env=False)


def test_the_pod_is_rolled_under_load(folder: Path) -> None:
    """Drained within its grace, nothing acknowledged is lost; the next Pod on the same claim has it all."""
    lines = folder / "calls.jsonl"
    printed = customized(folder, patch(settings(**QUIET)), components=["component/claim"])
    with running_pod(folder, printed) as pod:
        with load(pod, lines, 10, direct=20, events=50):
            eventually(lambda: pod.get("/stats")["total"] > 100)
            took_s = pod.stop()
        assert took_s < GRACE_S
        assert pod.state()["State"]["ExitCode"] == 0
        ids = acknowledged(lines)
        assert 100 < len(ids) < 10 * 50
        assert ids <= journalled()
        replayed(pod)
        assert pod.get("/stats")["total"] >= len(ids)


def test_the_pod_comes_up_before_the_gateway(folder: Path) -> None:
    """The startup probe succeeds with no gateway there, which then may start; calls pass once it has."""
    late = {"command": ["sh", "-c", "sleep 8; exec python -m sidecar.demo.gateway --host 0.0.0.0 --port 3700"]}
    with running_pod(folder, customized(folder, patch(settings(**QUIET), late))) as pod:
        assert pod.is_alive()
        early = _call(pod)
        assert (early.status_code, early.headers["X-Observer-Error"]) == (502, "proxy")
        assert eventually(lambda: _call(pod).status_code == 200)
        assert pod.state()["RestartCount"] == 0


def test_bad_settings_stop_the_start_and_say_why(folder: Path) -> None:
    """In a cluster the gateway would wait for this sidecar for ever: so it says what is wrong, and exits with 64."""
    wrong = {"OBSERVER_CYCEL": "5"}
    with played(folder, customized(folder, patch(settings(**QUIET, **wrong)))) as pod:
        eventually(lambda: pod.state()["RestartCount"] >= 1)
        assert "OBSERVER_CYCLE" in pod.logs()
        assert not pod.is_alive()
    assert alone(**wrong).returncode == 64


def _call(pod: Pod) -> httpx.Response:
    return httpx.post(f"{pod.url[PROXY]}/tools/ask", json={"role": "welder", "city": "Denver"}, trust_env=False)
