"""The command line: flags, help, exit statuses, and `run` as a process."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from sidecar.cli import _report, main
from sidecar.commands.arguments import command_parser
from sidecar.commands.flags import settings_flags
from sidecar.errors import SettingsError, StartError
from sidecar.settings import VARIABLES, describe
from tests.processes import observer_command, observer_env, run_command, running_observer, started


def test_help_names_every_command_and_ends_well(tmp_path: Path) -> None:
    """`--help` is the first thing a newcomer tries."""
    done = run_command(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("run", "demo", "stats", "tail", "doctor"):
        assert f"    {command}" in done.stdout


def test_version_is_printed(tmp_path: Path) -> None:
    """`--version` gives one line."""
    done = run_command(tmp_path, "--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "observer")


def test_no_command_shows_the_help_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A bare `observer` does not start anything."""
    assert main([]) == 64
    assert "usage: observer" in capsys.readouterr().err


def test_run_help_shows_each_setting_with_its_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The help text is made from the settings, so none can be missing."""
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for field, variable, _, _ in describe():
        assert f"--{field.replace('_', '-')}" in text
        assert variable in text
    assert "OBSERVER_PORT, default 3800" in text


@pytest.mark.parametrize("code", ["import sidecar.cli", "import sidecar.cli; sidecar.cli.main(['stats', '--url=x:1'])"])
def test_small_commands_load_neither_pipeline_nor_opentelemetry(code: str) -> None:
    """What only asks or explains must start quickly."""
    check = (
        "import sys; loaded = {'opentelemetry', 'sidecar.pipeline', 'uvicorn'} & set(sys.modules); assert not loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}, loaded"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_has_a_flag_that_reaches_the_settings() -> None:
    """A flag's text arrives under its field's name, booleans as words."""
    parser, _ = command_parser()
    given = settings_flags(parser.parse_args(["run", "--port", "0", "--require-gateway", "--no-allow-anonymous"]))
    assert given == {"port": "0", "require_gateway": "true", "allow_anonymous": "false"}
    for field, variable, _, default in describe():
        assert VARIABLES[field] == variable
        if not isinstance(default, bool):
            flag = "--" + field.replace("_", "-")
            assert settings_flags(parser.parse_args(["run", flag, "x"])) == {field: "x"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--cycel", "3"], "Did you mean --cycle?"),
        (["run", "--cycle"], "expected one argument"),
        (["stats", "now"], "no such argument"),
        (["tail", "-n", "-1"], "See `observer tail --help`"),
        (["tail", "-n", "many"], "is not a number from 0 to 1000"),
        (["demo", "--seconds", "soon"], "is not a number of seconds above 0"),
        (["demo", "--seconds", "-1"], "is not a number of seconds above 0"),
        (["demo", "--port", "65536"], "is not a number from 0 to 65535"),
        (["demo", "--sneed", "1"], "Did you mean --seed?"),
        (["tial"], "invalid choice"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_64(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slip of the finger is answered with what was meant, not with a page of usage."""
    assert main(arguments) == 64
    error = capsys.readouterr().err
    assert error.startswith("observer: ")
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"OBSERVER_CYCLE": "0"}, "OBSERVER_CYCLE='0' is not usable"),
        ({"OBSERVER_CYCEL": "3"}, "Did you mean OBSERVER_CYCLE?"),
        ({"OBSERVER_PORT": "tcp://10.0.0.1:80"}, "enableServiceLinks: false"),
        ({"OBSERVER_HOST": "0.0.0.0"}, "no token is set"),
        ({"OBSERVER_TOKEN_FILE": "/nonexistent/tokens"}, "/nonexistent/tokens"),
    ],
)
def test_wrong_settings_exit_64_and_bind_nothing(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    """One line says what, why and what to do; no door was opened and no file written."""
    done = run_command(tmp_path, "run", **settings)
    assert done.returncode == 64
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "port.opened" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_errors_of_ours_are_told_without_traceback_also_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """A group is what several stages that fail together raise; only what nobody expected shows where it came from."""
    ours = ExceptionGroup("two", [StartError("a", "b", "c"), ExceptionGroup("one", [TimeoutError("http hung")])])
    assert _report(ours) == 1
    assert capsys.readouterr().err == "observer: a: b. c\nobserver: http hung\n"
    assert _report(ExceptionGroup("", [SettingsError("a", "b", "c")])) == 64
    assert "Traceback" not in capsys.readouterr().err
    assert _report(BaseExceptionGroup("", [ValueError("a bug")])) == 1
    assert "ValueError: a bug" in capsys.readouterr().err


def test_a_flag_wins_over_the_environment(tmp_path: Path) -> None:
    """The command line is nearer than the environment."""
    with running_observer(
        tmp_path, "--cycle", "7", OBSERVER_CYCLE="9", GATEWAY_URL="http://u:pw@127.0.0.1:9"
    ) as observer:
        begun = observer.wait_for("observer.started")
    assert (begun["cycle"], begun["port"]) == (7.0, 0)
    assert "pw" not in begun["gateway"]
    assert begun["version"]


def test_the_log_tells_what_a_setting_does_not_do(tmp_path: Path) -> None:
    """An entry that matches nothing stops nobody: the observer starts, as it did before it looked."""
    with running_observer(tmp_path, OBSERVER_ALLOWED_HOSTS="gateway:3800") as observer:
        told = observer.wait_for("settings.doubtful")
        observer.wait_for("observer.ready")
    assert told["level"] == "warning"
    assert told["what"] == "OBSERVER_ALLOWED_HOSTS has 'gateway:3800', which never matches"
    assert "without scheme, port" in told["fix"]


def test_the_log_names_every_port_once_ready(tmp_path: Path) -> None:
    """The proxy's too, which agents call; none for a door that is off."""
    with running_observer(tmp_path, OBSERVER_PROXY_PORT="0") as observer:
        ready = observer.wait_for("observer.ready")
        assert httpx.get(f"http://127.0.0.1:{ready['proxy_port']}/any", timeout=30).status_code == 502
    assert ready["grpc_port"] is None


@pytest.mark.parametrize(
    ("serves", "setting"),
    [
        ("http", "OBSERVER_PORT"),
        ("health", "OBSERVER_HEALTH_PORT"),
        ("otlp-http", "OBSERVER_OTLP_HTTP_PORT"),
        ("proxy", "OBSERVER_PROXY_PORT"),
        ("gRPC", "OBSERVER_GRPC_PORT"),
    ],
)
def test_a_port_in_use_is_exit_1_with_what_to_do(tmp_path: Path, serves: str, setting: str) -> None:
    """The program that this one re-creates exited 0 here. Only the setting of that port is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_command(tmp_path, "run", **{setting: str(port)})
    assert done.returncode == 1
    assert (
        f"observer: the observer cannot listen on 127.0.0.1:{port} for {serves}: Address already in use." in done.stderr
    )
    assert re.findall(r"OBSERVER_\w*PORT", done.stderr) == [setting]
    *logged, _said = done.stderr.splitlines()
    assert all(json.loads(line)["event"] for line in logged)  # no line of a library's own, and no traceback


def test_an_unwritable_data_folder_is_exit_1_with_what_to_do(tmp_path: Path) -> None:
    """A folder under a file cannot be made, whoever asks (also root)."""
    (tmp_path / "file").write_text("")
    done = run_command(tmp_path, "run", OBSERVER_DATA_DIR=str(tmp_path / "file" / "data"))
    assert done.returncode == 1
    assert "OBSERVER_DATA_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_observer_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Two writers would spoil the journal."""
    with running_observer(tmp_path) as first:
        done = run_command(tmp_path, "run")
        assert done.returncode == 1
        assert f"pid {first.pid}" in done.stderr
        assert "Traceback" not in done.stderr
        assert httpx.get(first.url + "/livez", trust_env=False, timeout=30).status_code == 200


def test_a_required_gateway_that_is_away_is_exit_1(tmp_path: Path) -> None:
    """`--require-gateway` keeps the behaviour of old."""
    done = run_command(tmp_path, "run", "--require-gateway")
    assert done.returncode == 1
    assert "observer: the gateway does not answer" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    """What was acknowledged is in the journal, the doors close in order, and the status is 0."""
    with running_observer(tmp_path) as observer:
        for _ in range(20):
            httpx.post(observer.url + "/event", json={"success": True}, trust_env=False, timeout=30).raise_for_status()
        observer.send(number)
        assert observer.wait() == 0
        assert observer.events[-1]["event"] == "observer.stopped"
        assert [e["signal"] for e in observer.events if e["event"] == "observer.stopping"] == [number.name]
    assert len((tmp_path / "data" / "ops.jsonl").read_text().splitlines()) == 20


def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    """Someone who presses Ctrl-C twice does not want to wait for the grace period."""
    with running_observer(tmp_path, OBSERVER_GRACE="60", OBSERVER_LOG_LEVEL="debug") as observer:
        address = ("127.0.0.1", int(observer.url.rsplit(":", 1)[1]))
        with socket.create_connection(address) as slow:
            slow.sendall(b"POST /event HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            _round_trip(observer.url)
            observer.send(signal.SIGINT)
            observer.wait_for("stage.stopping", lambda event: event["stage"] == "http")
            observer.send(signal.SIGINT)
            assert observer.wait() == 130


def _round_trip(url: str) -> None:
    """After this answer the server has read what was sent on an older connection."""
    httpx.get(url + "/livez", trust_env=False, timeout=30).raise_for_status()


def test_run_raises_its_limit_of_open_files(tmp_path: Path) -> None:
    """A thousand slow clients must not use up the usual soft limit of 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    limited = subprocess.Popen(
        ["/bin/sh", "-c", 'ulimit -S -n 256; exec "$0" "$@"', *observer_command("run")],
        env=observer_env(tmp_path),
        stderr=subprocess.PIPE,
        text=True,
    )
    with limited:
        assert limited.stderr is not None
        try:
            assert any("observer.ready" in line for line in limited.stderr)
            limits = Path(f"/proc/{limited.pid}/limits")
            if not limits.exists():
                pytest.skip("this system has no /proc to read the limit from")
            row = next(line for line in limits.read_text().splitlines() if line.startswith("Max open files"))
            assert int(row.split()[3]) == wanted
        finally:
            limited.terminate()
            limited.stderr.read()


def test_interrupt_before_the_start_is_quiet(tmp_path: Path) -> None:
    """Ctrl-C on a command that asks ends it without a traceback."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with started(tmp_path, "stats", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}") as process:
            connection, _ = silent.accept()
            with connection:
                connection.recv(1)
                process.send(signal.SIGINT)
                assert process.wait() == 130
        assert process.lines == []


def test_module_and_script_are_the_same(tmp_path: Path) -> None:
    """`python -m sidecar` and `observer` are one program."""
    script = Path(sys.executable).with_name("observer")
    if not script.exists():
        pytest.skip("the package is not installed")
    done = subprocess.run([script, "--version"], env=dict(os.environ), capture_output=True, text=True, check=True)
    assert done.stdout == run_command(tmp_path, "--version").stdout
