"""The README tells the truth: its settings table and its example."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from sidecar.settings import describe, expected

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_settings_table_lists_every_setting_with_its_default() -> None:
    """One row a setting, in the order of `Settings`."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\| (.*) \|$", README.read_text(), re.MULTILINE)
    assert [(env, default, text) for env, default, text in rows if env.isupper()] == [
        (env, _shown(default), _said(field, text)) for field, env, text, default in describe()
    ]


def test_nothing_was_left_to_fill_in() -> None:
    """No placeholder stands in what people read."""
    assert not re.findall(r"@[A-Z]+@|TODO|FIXME", README.read_text())


def _said(field: str, text: str) -> str:
    return f"{text} ({expected(field)})" if expected(field) and "`true`" not in expected(field) else text


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it stands, against a gateway that is not there: it says so, and raises nothing."""
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example is not None
    structlog.reset_defaults()  # as in a program that has set no log of its own
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1].replace("localhost:3700", "127.0.0.1:9"), str(README), "exec"), {"asyncio": asyncio})
    structlog.reset_defaults()
    assert capsys.readouterr().out.startswith("False ")
    assert (tmp_path / "data/agent/ops.jsonl").read_text().count("\n") == 1
