"""The panels' TraceQL is well formed, by the grammar that Grafana's own editor uses. No Tempo is asked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.dashboards import queries
from tests.manifests import ROOT

MODULES = ROOT / "build" / "traceql" / "node_modules"
pytestmark = [pytest.mark.skipif(not os.environ.get("OBSERVER_TEST_K8S"), reason="run by `make test-k8s`")]


def errors(*asked: str) -> list[int]:
    """How many errors the grammar finds in each query."""
    script = Path(__file__).with_name("traceql.mjs")
    command = ["node", str(script), str(MODULES)]
    told = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return list(json.loads(told.stdout))


def test_every_query_is_well_formed() -> None:
    """And what is not is found."""
    asked = [query.asked for query in queries("tempo")]
    assert asked
    assert errors(*asked) == [0] * len(asked)
    assert errors('{ name = = "x" }')[0] > 0
