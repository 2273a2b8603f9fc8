"""The data folder is moved or removed under a running observer: nothing is acknowledged that cannot be kept."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.commands import checks_remote
from sidecar.commands.finding import Finding
from sidecar.errors import StartError
from sidecar.open_place import LOOK_S, FileGoneError, OpenPlace
from sidecar.store.folder_lock import FolderLock
from sidecar.store.journal_file import AppendFile
from tests.processes import PATIENCE_S, running_observer


def post_until(http: httpx.Client, url: str, status: int, ids: list[str], name: str) -> Any:
    """Post events until one is answered with *status*; *ids* takes those that were accepted. Returns the answer."""
    for number in range(1_000_000):
        answer = http.post(f"{url}/event", json={"event_id": f"{name}-{number}", "endpoint": "/a", "success": True})
        if answer.is_success:
            ids.append(f"{name}-{number}")
        if answer.status_code == status:
            return answer
    raise AssertionError(f"never {status}")


def kept(data: Path) -> list[str]:
    return [json.loads(line)["event_id"] for line in (data / "ops.jsonl").read_bytes().splitlines()]


def doctor(url: str) -> Finding:
    return asyncio.run(checks_remote.port("http", "127.0.0.1", int(url.rsplit(":", 1)[1]), ""))


def test_a_folder_that_is_moved_away_is_noticed_and_taken_up_again(tmp_path: Path) -> None:
    """An idle observer notices it too. Senders get 503 with the reason until the folder is back; then all is there."""
    data, ids = tmp_path / "data", list[str]()
    with running_observer(tmp_path) as observer, httpx.Client(timeout=PATIENCE_S) as http:
        post_until(http, observer.url, 200, ids, "before")
        data.rename(tmp_path / "elsewhere")
        assert observer.wait_for("journal.file_gone", lambda event: event["journal"] == "ops")["level"] == "error"
        why = http.get(f"{observer.health_url}/readyz").json()["error"]
        assert "ops.jsonl was moved away" in why
        assert "restart the observer" in why
        assert doctor(observer.url).status == "fail"
        assert why in doctor(observer.url).found
        answer = http.post(f"{observer.url}/event", json={"success": True})
        assert answer.status_code == 503
        assert "ops.jsonl was moved away" in answer.json()["error"]
        assert http.get(f"{observer.url}/livez").is_success
        (tmp_path / "elsewhere" / "observer.lock").unlink()  # a cleaner of old files takes it first
        (tmp_path / "elsewhere").rename(data)
        post_until(http, observer.url, 200, ids, "back")
        observer.wait_for("journal.file_back", lambda event: event["journal"] == "ops")
        observer.wait_for("journal.file_back", lambda event: event["journal"] == "decisions")
        assert http.get(f"{observer.url}/readyz").json() == {"status": "ok"}
        assert doctor(observer.url).status == "ok"
        observer.wait_for("folder.locked_again")
        with pytest.raises(StartError, match="is in use"):
            FolderLock(data).acquire()
        assert http.get(f"{observer.url}/stats").json()["lost"]["journal_removed"] == 0
    assert kept(data) == ids


def test_what_was_acknowledged_into_a_removed_file_is_counted(tmp_path: Path) -> None:
    """At most what a tenth of a second brought; a restart begins a new folder."""
    data, ids = tmp_path / "data", list[str]()
    with running_observer(tmp_path) as observer, httpx.Client(timeout=PATIENCE_S) as http:
        post_until(http, observer.url, 200, [], "before")
        shutil.rmtree(data.rename(tmp_path / "away"))  # so that nothing is made in it meanwhile
        answer = post_until(http, observer.url, 503, ids, "after")
        assert "ops.jsonl was removed from the data folder" in answer.json()["error"]
        assert len(ids) <= http.get(f"{observer.url}/stats").json()["lost"]["journal_removed"] <= len(ids) + 1
        data.mkdir()  # another folder at the path, as after a mount, is not the one that is open
        assert post_until(http, observer.url, 503, ids, "other").status_code == 503
        assert list(data.iterdir()) == []
        why = http.get(f"{observer.url}/readyz")
        assert (why.status_code, why.json()["status"]) == (503, "unready")
    with running_observer(tmp_path) as observer, httpx.Client(timeout=PATIENCE_S) as http:
        ids.clear()
        post_until(http, observer.url, 200, ids, "anew")
    assert kept(data) == ids


def test_a_look_is_rare_while_the_file_is_there(tmp_path: Path) -> None:
    """Not at each write, but at each once it is gone, so that it goes on when the file is back."""
    path, now = tmp_path / "f", [0.0]
    with path.open("wb") as file:
        place = OpenPlace(path, file.fileno(), lambda: now[0])
        path.rename(tmp_path / "g")
        place.look()
        place.wrote(3)
        for _ in range(2):
            now[0] = LOOK_S
            with pytest.raises(FileGoneError, match="moved away") as caught:
                place.look()
            assert caught.value.records == 0, "what is in a moved file is not lost"
        (tmp_path / "g").unlink()
        place.wrote(2)
        with pytest.raises(FileGoneError, match="removed") as caught:
            place.look()
        assert caught.value.records == 2
        path.touch()
        with pytest.raises(FileGoneError):
            place.look()


def test_a_full_journal_never_renames_anothers_file(tmp_path: Path) -> None:
    """Before a segment is closed, the path is looked at, however short the last look is ago."""
    path = tmp_path / "data" / "ops.jsonl"
    file = AppendFile(path, segment_bytes=20)
    file.append(b'{"number":"one"}\n')
    path.rename(tmp_path / "ours")
    path.write_bytes(b"theirs\n")
    with pytest.raises(FileGoneError):
        file.append(b'{"number":"two"}\n')
    file.close()
    assert [each.name for each in path.parent.iterdir()] == ["ops.jsonl"]
    assert path.read_bytes() == b"theirs\n"


def test_a_folder_that_another_observer_has_locked_is_given_up(tmp_path: Path) -> None:
    """If the lock file was removed, and another observer was faster, there are not two."""
    lock, other = FolderLock(tmp_path), FolderLock(tmp_path)
    lock.acquire()
    lock.renew()
    (tmp_path / "observer.lock").unlink()
    other.acquire()
    try:
        with pytest.raises(StartError, match="is in use"):
            lock.renew()
    finally:
        other.release()
        lock.release()
