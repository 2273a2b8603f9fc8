"""Our incidents agree with true causes at least as well as the clusters of drain3, a widely used template miner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path

import pytest

from tests.message_corpus import RECORDED, Failure, corpus, recorded_failures, scores

PYTHON = os.environ.get("OBSERVER_TEST_DRAIN3", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="`make test-drain3` installs drain3 and runs this")
SETS = ("tuning.jsonl cause", "held_out.jsonl cause", "held_out.jsonl reader", "recorded")


def failures_of(which: str) -> list[Failure]:
    if which != "recorded":
        return corpus(*which.split())
    if not RECORDED.exists():
        pytest.skip("the recorded tool calls are not beside the repository")
    return recorded_failures()


def clusters(failures: Sequence[Failure]) -> list[Hashable]:
    """The cluster that drain3 puts each failure in."""
    lines = "".join(
        json.dumps({"endpoint": failure.endpoint, "message": failure.message}) + "\n" for failure in failures
    )
    script = Path(__file__).with_name("clusters.py")
    done = subprocess.run([PYTHON, script], input=lines, capture_output=True, text=True, check=True)
    return [tuple(cluster) for cluster in json.loads(done.stdout)]


@pytest.mark.parametrize("which", SETS)
def test_incidents_meet_the_true_causes_at_least_as_well(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By V-measure, on each set; homogeneity, completeness and V-measure of both are printed."""
    failures = failures_of(which)
    ours, theirs = scores(failures), scores(failures, clusters)
    with capsys.disabled():
        for name, found in (("ours", ours), ("drain3", theirs)):
            numbers = "  ".join(f"{each:.3f}" for each in (*found, found.v_measure))
            sys.stdout.write(f"\n{which:24}{name:8}{numbers}")
    assert ours.v_measure >= theirs.v_measure
