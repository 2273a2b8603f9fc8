"""Disks that are full or read-only, for real: small file systems in memory (only root can mount them)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.crash.disk import SmallDisk
from tests.processes import PATIENCE_S, run_command, running_observer


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB at `tmp_path/data`."""
    if SmallDisk.refused():
        pytest.skip(SmallDisk.refused())
    disk = SmallDisk(tmp_path / "data", size_mib=8)
    assert disk.mount()
    try:
        yield disk.folder
    finally:
        disk.unmount()


def test_a_full_disk_refuses_and_recovers(tmp_path: Path, small_disk: Path) -> None:
    """503 with a reason and Retry-After while it is full; health and cycles go on; nothing acknowledged is damaged."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes(6 << 20))  # freed later: room for what the checkpoint takes first, and for the journal
    with running_observer(tmp_path, OBSERVER_CYCLE="0.1") as observer, httpx.Client(timeout=PATIENCE_S) as http:
        acknowledged = []
        for number in range(10_000):
            answer = http.post(f"{observer.url}/event", json={"event_id": str(number), "error": "x" * 2000})
            if answer.status_code != 200:
                break
            acknowledged.append(str(number))
        assert answer.status_code == 503
        assert answer.headers["Retry-After"]
        assert "journal" in answer.json()["error"]
        assert "No space left" in answer.json()["error"]  # refused, not late: what is late may be written yet
        assert acknowledged, "the disk was full before the first event"
        _lives_on(observer.url, http)

        filler.unlink()
        answer = http.post(f"{observer.url}/event", json={"event_id": "after"})
        assert answer.status_code == 200
    ids = [json.loads(line)["event_id"] for line in (small_disk / "ops.jsonl").read_bytes().splitlines()]
    assert ids == [*acknowledged, "after"]


def test_a_read_only_folder_stops_the_start(tmp_path: Path, small_disk: Path) -> None:
    """Exit status 1, with the folder, the reason and what to do; no traceback."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True, capture_output=True)
    ended = run_command(tmp_path, "run")
    assert ended.returncode == 1
    assert f"the data folder {small_disk} cannot be written to: Read-only file system." in ended.stderr
    assert "Traceback" not in ended.stderr


def _lives_on(url: str, http: httpx.Client) -> None:
    """Health answers, and the cycle number grows."""
    assert http.get(f"{url}/health").status_code == 200
    before = http.get(f"{url}/stats").json()["cycle"]
    while http.get(f"{url}/stats").json()["cycle"] < before + 2:
        pass
