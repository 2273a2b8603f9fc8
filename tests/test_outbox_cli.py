"""`observer outbox`: what waits and what is dead, seen and changed beside a running observer and without one."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from sidecar.model import Post, PostOutcome
from sidecar.store.outbox_table import OutboxTable
from sidecar.store.state import StateStore
from tests.fakes import ManualClock
from tests.observers import stand_in
from tests.processes import observer_command, observer_env, run_command, running_observer


async def kept(tmp_path: Path, *names: str) -> None:
    """A stopped observer's outbox: posts by *names*, the last of them a dead letter."""
    clock = ManualClock()
    state = StateStore(tmp_path / "data", clock)
    state.open()
    table = OutboxTable(state)
    posts = [Post(key=name, kind="test", url="/log", body=json.dumps({"operation": name}).encode()) for name in names]
    await table.put(posts, clock.time_ns())
    error = "the gateway refused a post: HTTP status 400 \x1b[2J"
    await table.settle(len(names), PostOutcome(state="dead", at_ns=clock.time_ns(), error=error))
    state.close()


async def test_list_shows_what_waits_and_what_is_dead(tmp_path: Path) -> None:
    """A line each, nothing that could steer a terminal; with `--json` all there is."""
    await kept(tmp_path, "a", "b")
    plain, as_json = run_command(tmp_path, "outbox", "list"), run_command(tmp_path, "outbox", "list", "--json")
    assert plain.stdout.splitlines() == [
        "id  state    kind  to    tries  since (UTC)          last error",
        "1   waiting  test  /log  0      2023-11-14 22:13:20",
        "2   dead     test  /log  1      2023-11-14 22:13:20  the gateway refused a post: HTTP status 400 \\x1b[2J",
    ]
    waiting, dead = json.loads(as_json.stdout)
    assert (waiting["id"], waiting["entry"], waiting["state"]) == (1, {"operation": "a"}, "waiting")
    assert (dead["id"], dead["key"], dead["attempts"], dead["due"]) == (2, "b", 1, None)
    only = run_command(tmp_path, "outbox", "list", "--id", "2", "--json", "--data-dir", str(tmp_path / "data"))
    assert [row["id"] for row in json.loads(only.stdout)] == [2]


async def test_list_fits_a_terminal(tmp_path: Path) -> None:
    """No line is wider; dead letters are red."""
    await kept(tmp_path, "a", "b")
    ours, theirs = pty.openpty()
    done = await asyncio.to_thread(
        subprocess.run,
        observer_command("outbox", "list"),
        env=observer_env(tmp_path, TERM="xterm"),
        stdout=theirs,
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "\x1b[31m2   dead" in shown


async def test_drop_gives_a_post_up_and_its_key_stays_known(tmp_path: Path) -> None:
    """It is not listed any more, and the same content does not come back."""
    await kept(tmp_path, "a", "b", "c")
    assert run_command(tmp_path, "outbox", "drop", "--id", "1", "--id", "3").stdout == "dropped: 2 posts\n"
    await kept(tmp_path, "a", "b", "c")
    assert [row["key"] for row in json.loads(run_command(tmp_path, "outbox", "list", "--json").stdout)] == ["b"]
    assert run_command(tmp_path, "outbox", "drop", "--all").stdout == "dropped: 1 post\n"
    assert run_command(tmp_path, "outbox", "list").stdout == "no waiting posts, no dead letters\n"


async def test_a_running_observer_notices_a_retried_post(tmp_path: Path) -> None:
    """The dead letter is sent again, with the key it had."""
    await kept(tmp_path, "a", "b")
    async with stand_in() as gateway:
        with running_observer(tmp_path, GATEWAY_URL=gateway.url):
            await gateway.wait_for("/log", 1)
            done = await asyncio.to_thread(run_command, tmp_path, "outbox", "retry", "--all")
            assert done.stdout == "due now: 1 post\n"
            await gateway.wait_for("/log", 2)
        assert [asked.headers["idempotency-key"] for asked in gateway.asked] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["retry"], 64, "--all"),
        (["drop"], 64, "--all"),
        (["drop", "--id", "1", "--all"], 64, "not allowed with"),
        (["sell"], 64, "invalid choice"),
        (["retry", "--id", "99"], 1, "there is no post 99"),
        (["list", "--data-dir", "nowhere"], 1, "nowhere/state.db is not there"),
    ],
)
async def test_what_cannot_be_done_is_said(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    """In one line, with what to do."""
    await kept(tmp_path, "a")
    done = run_command(tmp_path, "outbox", *arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_no_outbox_is_left_alone(tmp_path: Path) -> None:
    """Nothing is set aside or created."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "state.db").write_bytes(b"not a database at all" * 500)
    done = run_command(tmp_path, "outbox", "list")
    assert done.returncode == 1
    assert "state.db cannot be used: file is not a database" in done.stderr
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["state.db"]
