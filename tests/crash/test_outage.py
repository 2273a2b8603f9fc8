"""The program that takes the collector away, in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.outage import outage


async def test_a_short_outage_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line says what was seen; all spans came, once."""
    await outage(1.0, 100.0, tmp_path, around_s=(1.0, 1.0))  # so short a run says nothing of memory
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:2]] == ["ok", "ok"]
    assert "came again 0" in said[1]
    assert said[-1] == "ok    exit status 0"
