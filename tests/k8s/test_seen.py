"""The Pod's work is seen: its traces in Jaeger behind the real Collector, what every panel asks in Prometheus."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.advised import advised
from tests.dashboards import Query, dashboards, queries
from tests.k8s.pods import DOOR, NETWORK, PROXY, Pod, customized, missing, patch, podman, running_pod, settings
from tests.k8s.under_load import load
from tests.manifests import OBSERVABILITY, documents
from tests.peers import peers
from tests.peers.peers import Jaeger, free_ports, waited_for

MISSING = missing() or peers.missing() or ("" if shutil.which("prometheus") else "not installed: prometheus")
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=MISSING or "all there"), pytest.mark.timeout(400)]
LOAD_S = 75  # the Collector makes metrics of spans every 15 s, and a rate needs several of them


class Seen:
    """The Pod, Jaeger and Prometheus after a while of load."""

    def __init__(self, pod: Pod, jaeger: Jaeger, prometheus: str) -> None:
        self.pod = pod
        self.jaeger = jaeger
        self.prometheus = prometheus

    def values(self, query: Query) -> list[str]:
        """The values that a panel would show: of now, or of the last minutes; NaN left out."""
        if query.is_over_time:
            now = float(self._ask("query", query="time()")["result"][1])
            series = self._ask("query_range", query=query.asked, start=now - 60, end=now, step=5)["result"]
            found = [value for one in series for _, value in one["values"]]
        else:
            found = [one["value"][1] for one in self._ask("query", query=query.asked)["result"]]
        return [value for value in found if value != "NaN"]

    def label_values(self, metric: str, label: str) -> list[str]:
        """As the dashboards' variables ask for them."""
        answer = httpx.get(
            f"{self.prometheus}/api/v1/label/{label}/values", params={"match[]": metric}, trust_env=False
        )
        return list(answer.json()["data"])

    def _ask(self, how: str, **params: Any) -> dict[str, Any]:
        answer = httpx.get(f"{self.prometheus}/api/v1/{how}", params=params, trust_env=False)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["data"])


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Debian's Prometheus with the overlay's configuration, but for the target and a shorter interval."""
    (config,) = documents(OBSERVABILITY / "prometheus" / "prometheus.yaml")
    config["global"]["scrape_interval"] = "2s"
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (port,) = free_ports(1)
    command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/tsdb"]
    url = f"http://127.0.0.1:{port}"
    with peers.running([*command, f"--web.listen-address=127.0.0.1:{port}"], {}, folder / "prometheus.log"):
        waited_for(lambda: _is_ready(url))
        yield url


def _is_ready(url: str) -> bool | None:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False).status_code == 200 or None
    except httpx.HTTPError:
        return None


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """All of them, the Collector on the address that Pods reach this machine by."""
    folder = tmp_path_factory.mktemp("seen")
    (network,) = json.loads(podman("network", "inspect", NETWORK))
    host = network["subnets"][0]["gateway"]
    (grpc,) = free_ports(1)
    exporting = settings(
        OBSERVER_CYCLE="2",
        OBSERVER_HOLDOUT="0.5",
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{host}:{grpc}",
        OTEL_METRIC_EXPORT_INTERVAL="2000",
    )
    with contextlib.ExitStack() as stack:
        jaeger = stack.enter_context(peers.jaeger(folder))
        pod = stack.enter_context(running_pod(folder, customized(folder, patch(exporting))))
        collector = stack.enter_context(peers.collector(folder, jaeger.otlp, host, grpc))
        url = stack.enter_context(prometheus(folder, collector.metrics.removeprefix("http://").partition("/")[0]))
        seen = Seen(pod, jaeger, url)
        with load(pod, folder / "calls.jsonl", LOAD_S, proxied=10, events=5):
            waited_for(lambda: pod.get("/playbooks")["playbooks"] or None)
            advised(pod.url[DOOR], "/by-event", 40, token="all")
        waited_for(lambda: seen.label_values("observer_advice_tasks", "entry") or None)
        yield seen


def test_a_call_from_outside_is_a_trace_in_jaeger(seen: Seen) -> None:
    """By the trace id that the proxy's answer names; with the Pod's name, namespace and node."""
    body = {"role": "welder", "city": "Boise"}
    answer = httpx.post(f"{seen.pod.url[PROXY]}/tools/fill_shift", json=body, trust_env=False)
    trace_id = answer.headers["X-Observer-Trace-Id"]
    (span,) = seen.jaeger.spans(trace_id, 1)
    assert span["operationName"] == "/tools/fill_shift"
    trace = httpx.get(f"{seen.jaeger.query}/api/traces/{trace_id}", trust_env=False).json()["data"][0]
    tags = {tag["key"]: tag["value"] for tag in trace["processes"][span["processID"]]["tags"]}
    assert tags["k8s.pod.name"] == "agent-gateway-pod-0"
    assert tags["k8s.namespace.name"] == "default"
    assert tags["k8s.node.name"] == "node-of-the-test"


@pytest.mark.parametrize("query", queries("prometheus"), ids=lambda query: query.name)
def test_every_panel_shows_something(seen: Seen, query: Query) -> None:
    """The query is one that Prometheus takes, and returns data of this run."""
    assert seen.values(query), query.asked


@pytest.mark.parametrize("query", queries("jaeger"), ids=lambda query: query.name)
def test_jaeger_finds_what_a_panel_asks_for(seen: Seen, query: Query) -> None:
    """By service, operation and tags, as Grafana's data source puts it to the query API."""
    params = {key: query.asked[key] for key in ("service", "operation", "limit") if key in query.asked}
    if tags := query.asked.get("tags"):
        params["tags"] = json.dumps(dict(pair.split("=") for pair in tags.split()))
    answer = httpx.get(f"{seen.jaeger.query}/api/traces", params=params, trust_env=False)
    assert answer.json()["data"], query.asked


@pytest.mark.parametrize("name", dashboards())
def test_the_variable_offers_the_observers(seen: Seen, name: str) -> None:
    """`$instance` is namespace, pod and container, as the observer calls itself."""
    (variable,) = dashboards()[name]["templating"]["list"]
    metric, label = variable["definition"].removeprefix("label_values(").removesuffix(")").split(", ")
    assert seen.label_values(metric, label) == ["default.agent-gateway-pod-0.observer"]
