"""One Pod at a time: they share names and the machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.pods import Pod, customized, missing, patch, running_pod, settings


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    """The exposed example with a short cycle."""
    if missing():
        pytest.skip(missing())
    folder = tmp_path_factory.mktemp("pod")
    observer = settings(OBSERVER_CYCLE="1", OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    with running_pod(folder, customized(folder, patch(observer))) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For a Pod of a test's own."""
    if missing():
        pytest.skip(missing())
    return tmp_path
