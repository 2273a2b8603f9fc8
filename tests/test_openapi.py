"""The doors keep to the description they serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sidecar.receivers.openapi import openapi
from tests.fuzz_doors import fuzz
from tests.observers import observer


async def test_every_route_is_described_and_every_description_is_a_route(tmp_path: Path) -> None:
    """Neither an undocumented door nor a documented one that is not there."""
    async with observer(tmp_path) as running:
        routes = {path.replace(":path}", "}") for path in running.routes}
        assert set(json.loads(openapi("1"))["paths"]) == routes


def test_the_description_says_what_an_unknown_path_and_method_get() -> None:
    """These errors belong to no call that is listed."""
    told = json.loads(openapi("1"))["info"]["description"]
    assert all(status in told for status in ("404", "405", "415"))


@pytest.mark.timeout(300)  # a program of many calls: a busy machine may take its time
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    """A short, repeatable run of what `make fuzz` does at length."""
    report = fuzz(tmp_path, "--max-examples", "10", "--seed", "1", "--phases", "coverage,fuzzing")
    assert report.returncode == 0, report.stdout
