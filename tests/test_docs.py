"""The README tells the truth: its settings table and its example."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import structlog

from sidecar.settings import describe

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_settings_table_lists_every_setting_with_its_default() -> None:
    """One row a setting, in the order of `Settings`."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`([^`]*)`)? ?\| (.*) \|$", README.read_text(), re.MULTILINE)
    assert [(env, default, text) for env, default, text in rows if env.isupper()] == [
        (env, _shown(default), text) for _, env, text, default in describe()
    ]


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
    for name, value in {"OBSERVER_PORT": "0", "OBSERVER_HEALTH_PORT": "0", "GATEWAY_URL": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    exec(compile(example[1], str(README), "exec"), {"asyncio": asyncio})
    structlog.reset_defaults()
    assert capsys.readouterr().out.startswith("False ")
    assert (tmp_path / "data/_observer/ops.jsonl").read_text().count("\n") == 1
