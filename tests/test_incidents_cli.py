"""`observer incidents`: list, show and decide, on a running observer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from sidecar import cli
from sidecar.pipeline.observer import Observer
from tests.observers import client, cycle, observer


async def said(running: Observer, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status and what was printed."""
    url = f"http://127.0.0.1:{running.port}"
    status = await asyncio.to_thread(cli.main, ["incidents", *arguments, "--url", url])
    return status, *capsys.readouterr()


async def a_few(running: Observer) -> dict[str, Any]:
    async with client(running) as door:
        for error in ("no seat\x1b[31m", "city closed"):
            event = {"endpoint": "/book", "success": False, "error": error, "city": "Reno"}
            await door.post("/event", json=event)
        await cycle(running)
        rows = (await door.get("/incidents")).json()["incidents"]
        return {row["message"].split(" ", maxsplit=1)[0]: row["fingerprint"] for row in rows}


async def test_people_list_show_and_decide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the beginning of a fingerprint too; what others wrote cannot paint on the terminal."""
    async with observer(tmp_path) as running:
        keys = await a_few(running)
        capsys.readouterr()
        status, out, _ = await said(running, capsys, "list")
        assert (status, "fingerprint" in out, keys["no"] in out, "\x1b" in out) == (0, True, True, False)
        status, out, _ = await said(running, capsys, "ignore", keys["no"][:12], "--by", "ann", "--why", "known")
        assert (status, out) == (0, f"{keys['no']} is ignored\n")
        assert keys["city"] not in (await said(running, capsys, "list", "--state", "ignored"))[1]
        status, out, _ = await said(running, capsys, "show", keys["no"].partition("-")[2][:8])
        for part in ("state        ignored", "by city      Reno 1", "cause", "ignored by ann: known", "trace "):
            assert part in out
        assert json.loads((await said(running, capsys, "show", keys["no"], "--json"))[1])["note"] == "known"
        assert len(json.loads((await said(running, capsys, "list", "--json"))[1])["incidents"]) == 2
        assert (await said(running, capsys, "reopen", keys["no"], "--json"))[0] == 0
        assert (await said(running, capsys, "list", "--state", "ignored"))[1] == "no incidents in the state ignored\n"
        assert keys["city"] in (await said(running, capsys, "list", "--state", "ignored,ongoing,new"))[1]


async def test_what_cannot_be_done_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No incident named, one that is not there, several with that beginning, no webhook."""
    async with observer(tmp_path) as running:
        await a_few(running)
        capsys.readouterr()
        status, _, err = await said(running, capsys, "resolve", "v2-0000000000000000")
        assert (status, "is not known" in err) == (1, True)
        status, _, err = await said(running, capsys, "test-webhook")
        assert (status, err.startswith("observer: no webhook is set")) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resolve"], "no incident was named: `observer incidents resolve` needs one"),
        (["show", "v2-"], "'v2-' is too short to name an incident: it takes 4 characters"),
        (["list", "v2-00"], "'v2-00' is not usable: `observer incidents list` takes no incident"),
        (["test-webhook", "x"], "'x' is not usable: `observer incidents test-webhook` takes no incident"),
        (["list", "--state", "open"], "the command line is not usable: argument --state: 'open' is no state"),
    ],
)
def test_a_wrong_argument_is_exit_64(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """Before any observer is asked."""
    assert cli.main(["incidents", *arguments]) == 64
    assert capsys.readouterr().err.startswith(f"observer: {said}")


async def test_the_list_is_by_last_seen_and_tells_namesakes_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the time of the failures, whatever the order in which they arrive; equal messages have their error types."""
    failures = [
        ("/b", "no seat", "KeyError", "08:03"),
        ("/a", "no seat", "Timeout", "08:01"),
        ("/a", "no seat", "Refused", "08:02"),
        ("/a", "city closed", "Other", "08:00"),
    ]
    async with observer(tmp_path) as running, client(running) as door:
        for endpoint, error, kind, at in failures:
            event = {"endpoint": endpoint, "error": error, "error_type": kind, "timestamp": f"2026-01-31T{at}:00Z"}
            await door.post("/event", json=event)
        capsys.readouterr()
        _, out, _ = await said(running, capsys, "list")
        rows = [line.split("2026-01-31 ")[1].split(maxsplit=2) for line in out.splitlines()[1:]]
        assert rows == [
            ["08:03:00", "/b", "no seat"],
            ["08:02:00", "/a", "Refused: no seat"],
            ["08:01:00", "/a", "Timeout: no seat"],
            ["08:00:00", "/a", "city closed"],
        ]


async def test_few_of_many_hashes_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The five with the most failures; five are shown in full."""
    async with observer(tmp_path) as running, client(running) as door:
        for number in (*range(5), 6, 6, 7, 7):
            event = {"endpoint": "/book", "error": "no seat", "sig_hash": f"h{number}"}
            await door.post("/event", json=event)
        (row,) = (await door.get("/incidents")).json()["incidents"]
        capsys.readouterr()
        _, out, _ = await said(running, capsys, "show", row["fingerprint"])
        (line,) = [line for line in out.splitlines() if line.startswith("by sig hash")]
        assert line.split("  ", 1)[1].strip() == "h6 2, h7 2, h0 1, h1 1, h2 1 and 2 more"
