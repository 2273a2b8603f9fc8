"""`observer doctor`: what each check finds, and the exit status."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidecar.commands import check_grpc, checks_local, checks_remote
from sidecar.commands.finding import Finding, bounded, in_thread
from tests.observers import settings, stand_in
from tests.processes import observer_command, observer_env, run_command, running_observer


def checks(output: str) -> dict[str, dict[str, Any]]:
    return {check["check"]: check for check in json.loads(output)["checks"]}


def test_offline_asks_no_one_and_is_well(tmp_path: Path) -> None:
    """Fit for a pipeline: settings and folders only, and nothing is created."""
    done = run_command(tmp_path, "doctor", "--offline", "--json")
    found = checks(done.stdout)
    assert done.returncode == 0
    assert list(found) == ["settings", "access", "corrections", "data folder", "clock"]
    assert "is not there yet" in found["corrections"]["found"]
    assert "will be created" in found["data folder"]["found"]
    assert not (tmp_path / "data").exists()


def test_wrong_settings_are_reported_with_exit_64(tmp_path: Path) -> None:
    """The report says what `run` would refuse, without a traceback."""
    done = run_command(tmp_path, "doctor", OBSERVER_CYCEL="3")
    assert done.returncode == 64
    assert done.stdout.splitlines()[0] == (
        "fail  settings     OBSERVER_CYCEL is not a setting: no setting has that name. Did you mean OBSERVER_CYCLE?"
    )
    assert "Traceback" not in done.stderr


def test_settings_that_do_not_do_what_they_seem_to_are_a_warning(tmp_path: Path) -> None:
    """Each is told with its reason, and `run` would start."""
    hosts = {"OBSERVER_ALLOWED_HOSTS": "localhost:3800,gateway", "OBSERVER_PROXY_PATHS": "/v1/a*"}
    done = run_command(tmp_path, "doctor", "--offline", "--json", **hosts)
    found = checks(done.stdout)["settings"]
    assert (done.returncode, found["status"]) == (0, "warn")
    assert "OBSERVER_ALLOWED_HOSTS has 'localhost:3800', which never matches: a `Host`" in found["found"]
    assert "OBSERVER_PROXY_PATHS has '/v1/a*', which matches only what is written exactly so" in found["found"]
    assert found["fix"].startswith("Leave it out: localhost and IP addresses always pass. Write paths such as")


def test_a_bad_token_file_is_a_wrong_setting(tmp_path: Path) -> None:
    """It is read as `run` would read it."""
    done = run_command(tmp_path, "doctor", "--offline", OBSERVER_TOKEN_FILE=str(tmp_path / "none"))
    assert done.returncode == 64


def test_a_token_file_without_tokens_lets_nobody_in(tmp_path: Path) -> None:
    """Comments are no tokens. With a token beside it, or in it, somebody gets in."""
    file = tmp_path / "tokens"
    file.write_text("# ours\n\n")
    for said, more in (("nobody can get in", {}), ("callers need a token", {"OBSERVER_TOKEN": "t" * 32})):
        done = run_command(tmp_path, "doctor", "--offline", OBSERVER_TOKEN_FILE=str(file), **more)
        assert done.returncode == 0
        (line,) = [line for line in done.stdout.splitlines() if "access " in line]
        assert said in line
        assert line.startswith("ok" if more else "warn")


def test_a_dead_gateway_fails_a_dead_model_only_warns(tmp_path: Path) -> None:
    """Without a model the observer still diagnoses, so that is no reason to hold a deployment up."""
    done = run_command(tmp_path, "doctor")
    lines = {line[6:19].strip(): line for line in done.stdout.splitlines()}
    assert done.returncode == 1
    assert lines["gateway"].startswith("fail  gateway      http://127.0.0.1:9/health: ")
    assert "correct GATEWAY_URL" in lines["gateway"]
    assert lines["model"].startswith("warn")
    assert done.stdout.splitlines()[-1] == "12 checks: 1 failed, 1 with a warning"


def test_on_a_terminal_the_report_is_coloured_and_what_to_do_stands_apart(tmp_path: Path) -> None:
    """The eye finds failures first, and the way out under each."""
    ours, theirs = pty.openpty()
    env = observer_env(tmp_path, TERM="xterm")
    done = subprocess.run(observer_command("doctor"), env=env, stdout=theirs, check=False)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal's output
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    assert done.returncode == 1
    assert "\x1b[1;31mfail\x1b[0m  gateway" in shown.decode()
    assert "\x1b[1m→ Start the gateway, or correct GATEWAY_URL\x1b[0m" in shown.decode()


def test_beside_a_running_observer_its_ports_and_folder_are_known(tmp_path: Path) -> None:
    """`kubectl exec … -- observer doctor` must not call the observer's own ports taken."""
    with running_observer(tmp_path, OBSERVER_GRPC_PORT="0", OBSERVER_OTLP_HTTP_PORT="0") as observer:
        ready = observer.wait_for("observer.ready")
        opened = {event["serves"]: str(event["port"]) for event in observer.events if event["event"] == "port.opened"}
        ports = {
            "OBSERVER_OTLP_HTTP_PORT": opened["otlp-http"],
            "OBSERVER_GRPC_PORT": str(ready["grpc_port"]),
            "OBSERVER_PORT": observer.url.rsplit(":", 1)[1],
            "OBSERVER_HEALTH_PORT": observer.health_url.rsplit(":", 1)[1],
        }
        done = run_command(tmp_path, "doctor", "--json", **ports)
    found = checks(done.stdout)
    assert "held by an observer" in found["http port"]["found"]
    assert "held by an observer" in found["health port"]["found"]
    assert "held by an observer" in found["grpc port"]["found"]
    assert "held by an observer" in found["otlp-http port"]["found"]
    assert f"in use by a running observer (pid {observer.pid})" in found["data folder"]["found"]
    ours = ("http port", "health port", "grpc port", "otlp-http port", "data folder")
    assert {found[name]["status"] for name in ours} == {"ok"}


async def test_a_collector_on_the_port_for_otlp_is_a_stranger(tmp_path: Path) -> None:
    """`run` could not listen there, and the pod would not start."""
    async with stand_in() as stub:
        number = stub.url.rsplit(":", 1)[1]
        done = await asyncio.to_thread(run_command, tmp_path, "doctor", OBSERVER_OTLP_HTTP_PORT=number)
    (line,) = [line for line in done.stdout.splitlines() if "otlp-http" in line]
    assert line.startswith("fail  otlp-http port 127.0.0.1:")
    assert line.endswith("choose another with OBSERVER_OTLP_HTTP_PORT")


async def test_ports_are_free_or_taken_by_a_stranger() -> None:
    """A listener that is no observer fails the check."""
    assert (await checks_remote.port("http", "127.0.0.1", 0, "")).status == "ok"
    async with stand_in() as stub:
        number = int(stub.url.rsplit(":", 1)[1])
        taken = await checks_remote.port("health", "127.0.0.1", number, "")
    assert taken.status == "fail"
    assert "OBSERVER_HEALTH_PORT" in taken.fix
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        number = sock.getsockname()[1]
    assert (await checks_remote.port("http", "127.0.0.1", number, "")).found == f"127.0.0.1:{number} is free"
    assert (await checks_remote.port("http", "192.0.2.1", 3800, "")).status == "fail"


async def test_a_stranger_on_the_grpc_port_is_no_observer() -> None:
    """A collector has the same port by default; where no such door is wanted there is nothing to check."""
    async with stand_in() as stub:
        number = int(stub.url.rsplit(":", 1)[1])
        free = await checks_remote.port("grpc", "127.0.0.1", number, "")
        taken = await check_grpc.grpc_port("127.0.0.1", number, free, "")
    assert taken.status == "fail"
    assert "OBSERVER_GRPC_PORT" in taken.fix
    assert (await check_grpc.grpc_port("127.0.0.1", -1, free, "")).status == "ok"


def test_corrections_that_cannot_be_read_fail(tmp_path: Path) -> None:
    """A folder where the file should be is a mistake in the settings; a file is told with its size."""
    known = settings(tmp_path)
    path = Path(known.overseer_corrections_path)
    path.write_text("{}\n")
    assert checks_local.corrections(known).found.endswith("(3 bytes)")
    path.unlink()
    path.mkdir()
    assert checks_local.corrections(known).status == "fail"


def test_a_data_folder_that_cannot_be_had_fails(tmp_path: Path) -> None:
    """A file in its way, or in the way of its parent."""
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "data"):
        finding = checks_local.data_folder(settings(tmp_path, OBSERVER_DATA_DIR=str(folder)))
        assert finding.status == "fail"
        assert "OBSERVER_DATA_DIR" in finding.fix


def test_a_data_folder_is_left_as_it_was(tmp_path: Path) -> None:
    """The probe leaves nothing; a lock whose holder is gone counts for nothing."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "observer.lock").write_text("1\n")
    assert "can be written to" in checks_local.data_folder(settings(tmp_path)).found
    assert [path.name for path in folder.iterdir()] == ["observer.lock"]
    with (folder / "observer.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize(
    ("env", "status", "said"),
    [
        ({}, "ok", "only this machine"),
        ({"OBSERVER_HOST": "0.0.0.0", "OBSERVER_TOKEN": "0123456789abcdef"}, "ok", "OBSERVER_TOKEN"),
        ({"OBSERVER_TOKEN": "ab"}, "warn", "OBSERVER_TOKEN has 2 characters"),
        ({"OBSERVER_HOST": "0.0.0.0", "OBSERVER_ALLOW_ANONYMOUS": "true"}, "warn", "whoever reaches"),
        ({"OBSERVER_TLS_CERT": "/none", "OBSERVER_TLS_KEY": "/none"}, "fail", "/none"),
    ],
)
async def test_access_is_told(tmp_path: Path, env: dict[str, str], status: str, said: str) -> None:
    """Who may come in, and whether TLS could be set up."""
    finding = checks_local.access(settings(tmp_path, **env), {})
    assert finding.status == status
    assert said in finding.found


async def test_a_check_that_hangs_is_given_up() -> None:
    """A hung mount or host costs its own check only."""

    async def hang() -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    finding = await bounded("model", hang(), late="warn", limit_s=0.01)
    assert (finding.status, finding.check) == ("warn", "model")


async def test_a_failure_on_the_thread_reaches_whoever_waits() -> None:
    """Errors and results come back alike."""

    def fail() -> None:
        raise ValueError("on purpose")

    assert await in_thread(lambda: 5) == 5
    with pytest.raises(ValueError, match="on purpose"):
        await in_thread(fail)
