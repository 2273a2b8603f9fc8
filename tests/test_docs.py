"""README and pages tell the truth: the settings table, names of things, links, the Python example.

That their commands do what they show is in `test_docs_commands`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from sidecar.commands.flags import SETTING_GROUPS
from sidecar.receivers.event_fields import FIELD_SCHEMAS
from sidecar.receivers.openapi import openapi
from sidecar.settings import describe, expected
from sidecar.spans.conventions_table import FAILING_LEVELS
from tests.doc_pages import PAGES, ROOT, Page, commands
from tests.observers import observer

README = PAGES["README.md"]
_OURS = re.compile(r"`?\b((?:OBSERVER|LANGFUSE_(?:PULL|FORWARD))_[A-Z_]*[A-Z])\b")
_TARGET = re.compile(r"`make ([a-z0-9-]+)")


def test_the_settings_table_lists_every_setting_with_its_default() -> None:
    """One row a setting, in the order of `Settings`."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\| (.*) \|$", README.text, re.MULTILINE)
    assert [(env, default, text) for env, default, text in rows if env.isupper()] == [
        (env, _shown(default), _said(field, text)) for field, env, text, default in describe()
    ]


def test_the_groups_of_settings_are_those_of_the_help_text() -> None:
    """Each heading of the README stands in front of the setting that opens the group of `observer run --help`."""
    openers = re.findall(r"^### (.*)\n\n.*\n.*\n\| `(\w+)` \|", README.section("## Settings"), re.MULTILINE)
    titles = {env: SETTING_GROUPS[field] for field, env, _, _ in describe() if field in SETTING_GROUPS}
    assert {env: title.lower() for title, env in openers} == {env: title.lower() for env, title in titles.items()}


def test_nothing_was_left_to_fill_in() -> None:
    """No placeholder stands in what people read."""
    assert not [name for name, page in PAGES.items() if re.search(r"@[A-Z]+@|TODO|FIXME", page.text)]


def _said(field: str, text: str) -> str:
    return f"{text} ({expected(field)})" if expected(field) and "`true`" not in expected(field) else text


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_settings_named_in_a_page_exist(page: Page) -> None:
    """A variable with the observer's prefix is one that it knows."""
    known = {env for _, env, _, _ in describe()}
    assert {name for name in _OURS.findall(page.text) if not name.startswith("OBSERVER_TEST_")} <= known


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_links_lead_somewhere(page: Page) -> None:
    """Files are there, and so are the headings that a link names."""
    assert not [target for target in page.links if not page.reaches(target)]


def test_every_page_is_found_from_the_readme() -> None:
    """A page that nobody links to is not read."""
    linked = {target.partition("#")[0] for target in README.links}
    assert {name for name in PAGES if name.startswith("docs/")} <= linked


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_make_targets_named_in_a_page_exist(page: Page) -> None:
    """`make something` is a rule of the Makefile."""
    rules = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(_TARGET.findall(page.text)) | _made_in(page) <= rules


def _made_in(page: Page) -> set[str]:
    return {each.line.split()[1] for each in commands(page) if each.line.startswith("make ")}


def test_the_fields_of_an_event_are_those_that_are_read() -> None:
    """The table of docs/events.md has each field that an event can give, and no other."""
    table = PAGES["docs/events.md"].section("## Fields").partition("\n### ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`(\w+)`", cell)} == set(FIELD_SCHEMAS)


async def test_the_table_of_endpoints_has_all_of_them_with_their_scopes(tmp_path: Path) -> None:
    """Method, path and scope, as they are served; what Langfuse's clients ask for is one row."""
    described = json.loads(openapi("1"))["paths"]
    async with observer(tmp_path) as running:
        scopes = {path: getattr(resource, "scope", None) for path, resource in running.routes.items()}
    served = {
        (method.upper(), path, scopes[path] or "none")
        for path, methods in described.items()
        if not path.startswith("/api/public")
        for method in methods
        if method in {"get", "post"}
    }
    assert set(_endpoints(PAGES["docs/api.md"].section("## HTTP"))) == served


def _endpoints(table: str) -> Iterator[tuple[str, str, str]]:
    for cell, scope in re.findall(r"^\| (`(?:GET|POST) .*?`) \| .* \| `?(\w+)`? \|$", table, re.MULTILINE):
        method = path = ""
        for said, rest in re.findall(r"`(?:(GET|POST) )?(\S+)`", cell):
            method = said or method
            path = f"{path.rpartition('/')[0]}{rest[1:]}" if rest.startswith("…") else rest
            yield method, path, scope


def test_requests_and_limits_are_those_of_the_component() -> None:
    """What the README says that the sidecar takes is what its manifest asks for."""
    container = (ROOT / "k8s/component/sidecar.yaml").read_text()
    resources = re.findall(r"^ +(cpu|memory): (\w+)", container, re.MULTILINE)
    said = re.search(r"requests are (\w+) of CPU and (\w+) of memory, its limits (\w+) and (\w+)", README.text)
    assert said is not None
    assert list(zip(("cpu", "memory", "cpu", "memory"), said.groups(), strict=True)) == resources


def test_the_ports_that_components_open_are_named() -> None:
    """A Service's `targetPort` is one of these names, and calls by the Service's name need it to be allowed."""
    points = PAGES["docs/kubernetes.md"].section("## Agents in other pods").split("\n- ")
    told = {name: point for point in points if (name := point.partition("`:")[0].strip("`")).startswith("expose-")}
    components = {path.name: path for path in (ROOT / "k8s/component").glob("expose-*")}
    assert told.keys() == components.keys()
    for name, point in told.items():
        said = " ".join(point.split())
        patches = "".join(path.read_text() for path in components[name].glob("*.yaml"))
        for port in re.findall(r"- name: (observer-\w+)\s+containerPort", patches):
            assert f"`targetPort: {port}`" in said, name
        assert "OBSERVER_ALLOWED_HOSTS" in said, name


def test_levels_that_mean_failure_are_named() -> None:
    """A Langfuse level decides on its own: who reads the page must know which."""
    (row,) = re.findall(r"^\| `success` \|.*", PAGES["docs/otlp.md"].text, re.MULTILINE)
    levels = row.partition("Without a level")[0]
    assert {level.lower() for level in re.findall(r"`([A-Z]+)`", levels)} == FAILING_LEVELS


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, against a gateway that is not there: it says so, and raises nothing."""
    page = PAGES["docs/events.md"]
    (example,) = re.findall(r"```python\n(.*?)```", page.text, re.DOTALL)
    configured = structlog.get_config()
    structlog.reset_defaults()  # as in a program that has set no log of its own
    monkeypatch.chdir(tmp_path)
    exec(compile(example.replace("localhost:3700", "127.0.0.1:9"), str(page.path), "exec"), {"asyncio": asyncio})
    structlog.configure(**configured)
    assert capsys.readouterr().out.startswith("False ")
    assert (tmp_path / "data/agent/ops.jsonl").read_text().count("\n") == 1
