"""`observer stats`, and how a running observer is found and asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.commands.observer_client import AskError, AwayError, observer_client
from tests.observers import Answer, says, stand_in
from tests.processes import observer_command, observer_env, run_command, running_observer


def test_stats_prints_what_was_counted(tmp_path: Path) -> None:
    """Plain lines without a terminal, the observer's own JSON with `--json`; the token comes from the environment."""
    with running_observer(tmp_path, OBSERVER_TOKEN="sesame") as observer:
        headers = {"Authorization": "Bearer sesame"}
        for success in (True, True, False):
            event = {"success": success, "event_kind": "fill\x1b[2J", "endpoint": "/tools/a", "error": "no seat"}
            httpx.post(
                observer.url + "/event", json=event, headers=headers, trust_env=False, timeout=30
            ).raise_for_status()
        plain = run_command(tmp_path, "stats", "--url", observer.url, OBSERVER_TOKEN="sesame")
        as_json = run_command(tmp_path, "stats", "--url", observer.url, "--token", "sesame", "--json")
        refused = run_command(tmp_path, "stats", "--url", observer.url)
        own = run_command(
            tmp_path, "stats", "--token", "sesame", OBSERVER_PORT=observer.url.rsplit(":", 1)[1], OBSERVER_HOST="::"
        )
    assert plain.returncode == 0
    assert "  succeeded                              2   66.7%" in plain.stdout
    assert "fill\\x1b[2J" in plain.stdout
    latest = plain.stdout.partition("last operations\n")[2].splitlines()
    assert ["FAIL" in line for line in latest] == [False, False, True]
    assert "/tools/a" in latest[2]
    assert "no seat" in latest[2]
    assert "\x1b" not in plain.stdout
    assert json.loads(as_json.stdout)["failures"] == 1
    assert refused.returncode == 1
    assert "refused us (401)" in refused.stderr
    assert "OBSERVER_TOKEN" in refused.stderr
    assert own.returncode == 1  # `::` is asked at [::1], where this observer does not listen
    assert "http://[::1]:" in own.stderr


def test_stats_is_a_table_on_a_terminal(tmp_path: Path) -> None:
    """With a frame and bars, as wide as the terminal at most."""
    with running_observer(tmp_path) as observer:
        httpx.post(observer.url + "/event", json={"success": True}, trust_env=False, timeout=30).raise_for_status()
        ours, theirs = pty.openpty()
        done = subprocess.run(
            observer_command("stats", "--url", observer.url),
            env=observer_env(tmp_path, TERM="xterm"),
            stdout=theirs,
            check=False,
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
    assert done.returncode == 0
    assert shown.decode().startswith("\x1b[2m╭─")
    assert "observer at" in shown.decode()
    assert "last operations" in shown.decode()


@pytest.mark.parametrize("command", ["stats", "tail"])
def test_an_observer_that_is_not_there_is_exit_1(tmp_path: Path, command: str) -> None:
    """One line says so, and what to do."""
    done = run_command(tmp_path, command, "--url", "127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("observer: no observer answers at http://127.0.0.1:9: Connection refused. Start one")
    assert "observer run" in done.stderr


@pytest.mark.parametrize("url", ["ftp://x", "http://a:b:c", "http://", "http://[::1"])
def test_nonsense_is_no_address(url: str) -> None:
    """A wrong --url is told from an observer that is away."""
    with pytest.raises(AskError, match="is not an address") as said, observer_client(url, None, {}) as client:
        client.get("/stats")
    assert not isinstance(said.value, AwayError)


@pytest.mark.parametrize(
    ("answer", "said", "later"),
    [
        (Answer(200, b"<html>"), "is not an observer", False),
        (Answer(200, b"[]"), "is not an observer", False),
        (Answer(404), "is not an observer", False),
        (says({"error": "no \x1b[2J"}, 503), r"no \\x1b\[2J", True),
        (says({"error": "Host is not ours"}, 421), "Host is not ours$", False),
        (says({"error": "x is not known: y. Look at z"}, 404), "Look at z$", False),
        (says({}, 422), "Change the request, or --url$", False),
        (Answer(302, b"x"), "refused us", False),
    ],
)
async def test_a_strange_answer_is_explained(answer: Answer, said: str, later: bool) -> None:
    """Whatever answers there, the message says what it was; only what may pass is tried again."""

    def ask(url: str) -> None:
        with observer_client(url, None, {}) as client:
            client.decoded(client.get("/stats"), dict[str, Any])

    async with stand_in() as stub:
        stub.answers["/stats"] = answer
        with pytest.raises(AskError, match=said) as raised:
            await asyncio.to_thread(ask, stub.url)
    assert isinstance(raised.value, AwayError) is later


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:3800"),
        ({"OBSERVER_PORT": "4000", "OBSERVER_HOST": "0.0.0.0"}, "http://127.0.0.1:4000"),
        ({"OBSERVER_HOST": "10.0.0.7"}, "http://10.0.0.7:3800"),
        ({"OBSERVER_HOST": "fe80::1"}, "http://[fe80::1]:3800"),
    ],
)
def test_inside_its_container_the_observer_is_found_by_its_own_settings(env: dict[str, str], url: str) -> None:
    """`kubectl exec … -- observer stats` needs no flags."""
    with observer_client(None, None, env) as client:
        assert client.url == url


def test_a_missing_certificate_is_explained() -> None:
    """TLS is verified against the observer's own certificate, which must be there."""
    with pytest.raises(AskError, match=r"nowhere\.pem"):
        observer_client(None, None, {"OBSERVER_TLS_CERT": "/nowhere.pem"})


def test_over_tls_the_observers_own_certificate_is_trusted(tmp_path: Path) -> None:
    """`observer stats` and `doctor` in its container reach it by address, whatever name the certificate holds."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    make = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=observer.example -keyout {key} -out {certificate}"
    subprocess.run([openssl, *make.split()], check=True, capture_output=True)
    tls = {"OBSERVER_TLS_CERT": certificate, "OBSERVER_TLS_KEY": key}
    with running_observer(tmp_path, OBSERVER_GRPC_PORT="0", **tls) as observer:
        port = observer.url.rsplit(":", 1)[1]
        grpc_port = str(observer.wait_for("observer.ready")["grpc_port"])
        stats = run_command(tmp_path, "stats", **tls, OBSERVER_PORT=port)
        doctor = run_command(tmp_path, "doctor", **tls, OBSERVER_PORT=port, OBSERVER_GRPC_PORT=grpc_port)
        stranger = run_command(tmp_path, "stats", "--url", f"https://127.0.0.1:{port}")
    assert stats.stdout.startswith(f"observer at https://127.0.0.1:{port}\n")
    for held in (port, grpc_port):
        assert f"127.0.0.1:{held} is held by an observer" in doctor.stdout
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.stderr
