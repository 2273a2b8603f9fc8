"""What the original program got wrong, each seen by running it, and each right here. One test a fault."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.errors import SettingsError, StartError
from sidecar.gateway.summary import summarize
from sidecar.normalize import Normalizer
from sidecar.pipeline.observer import Observer
from sidecar.redaction import Redactor
from tests.observers import FaultyFile, StandIn, client, cycle, journal, observer, says, settings, stand_in

_CORRECTION = {
    "created_at": "2026-01-31T08:15:00.000Z",
    "model": "gpt-oss:120b",
    "task_class": "staffing.fill",
    "reason": "wrong city",
    "correction": "Ask for open cities only.",
    "sig_hash": "abc",
}


async def post(running: Observer, *events: dict[str, Any]) -> None:
    """*events* in one batch; all of them are good."""
    async with client(running) as http:
        answer = await http.post("/events", content=json.dumps(events).encode())
        assert answer.json()["accepted"] == len(events)


async def cycles(running: Observer, count: int) -> None:
    for _ in range(count):
        await cycle(running)


def analyses(gateway: StandIn) -> list[dict[str, str]]:
    return [entry for entry in gateway.posts("/log") if entry["operation"].startswith("error_analysis")]


def consolidations(gateway: StandIn) -> list[dict[str, str]]:
    return [entry for entry in gateway.posts("/log") if entry["operation"].startswith("consolidated")]


@pytest.mark.parametrize("name", ["constructor", "__proto__", "toString", "hasOwnProperty"])
async def test_no_endpoint_name_ends_the_loop(tmp_path: Path, name: str) -> None:
    """Five successes of an endpoint named as a member of every object used to end the loop, while HTTP stayed up."""
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        await post(running, *({"endpoint": name, "success": True} for _ in range(6)), {"endpoint": name, "error": name})
        await cycles(running, 6)
        assert (running.cycle.cycles, running.cycle.step_failures, running.cycle.cycle_failures) == (6, 0, 0)
        assert [entry["context"] for entry in consolidations(gateway)] == [f"endpoint={name}"]


async def test_a_null_row_costs_itself(tmp_path: Path) -> None:
    """A `null` among the corrections used to end the loop; rows around it were lost with it."""
    rows = [
        "null",
        json.dumps(_CORRECTION),
        "5",
        "[]",
        '"x"',
        "{broken",
        json.dumps({**_CORRECTION, "reason": "other"}),
    ]
    (tmp_path / "corrections.jsonl").write_text("\n".join(rows) + "\n")
    async with observer(tmp_path) as running:
        await cycles(running, 2)
        assert running.ring.by_source["overseer_correction"] == 2
        assert running.cycle.step_failures == 0


async def test_a_hung_model_stalls_nothing(tmp_path: Path) -> None:
    """A model that took the request and never answered used to stop the loop for good."""
    async with (
        stand_in() as model,
        stand_in() as gateway,
        observer(tmp_path, GATEWAY_URL=gateway.url, LAKEHOUSE_URL=model.url, OBSERVER_MODEL_TIMEOUT="0.2") as running,
    ):
        model.silent.add("/ai/generate")
        await post(running, {"error": "no"})
        await cycles(running, 2)
        (entry,) = analyses(gateway)
        assert entry["approach"] == "counted error patterns, no model"


async def test_a_hung_gateway_does_not_hold_up_the_start(tmp_path: Path) -> None:
    """A health check of the gateway that got no answer used to stall the start, and with it every door."""
    async with stand_in() as gateway:
        gateway.silent.add("/health")
        async with observer(tmp_path, GATEWAY_URL=gateway.url) as running, client(running) as http:
            assert (await http.get("/readyz")).status_code == 200
        assert gateway.asked == []


async def test_the_same_failures_are_analysed_once(tmp_path: Path) -> None:
    """Each cycle used to analyse and post the same failures again, for as long as they were in memory."""
    async with (
        stand_in() as gateway,
        observer(tmp_path, GATEWAY_URL=gateway.url, LAKEHOUSE_URL=gateway.url) as running,
    ):
        gateway.answers["/ai/generate"] = says({"text": "The city is closed."})
        await post(running, {"endpoint": "/fill", "error": "closed"})
        await cycles(running, 4)
        assert (len(analyses(gateway)), len(gateway.posts("/ai/generate"))) == (1, 1)
        await post(running, {"endpoint": "/fill", "error": "closed"})
        await cycles(running, 2)
        assert len(analyses(gateway)) == 2  # it has doubled: that is new evidence


async def test_the_same_playbook_is_posted_once(tmp_path: Path) -> None:
    """Each fifth cycle used to post the same entries again."""
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        await post(running, *({"endpoint": "/fill", "success": True} for _ in range(6)))
        await cycles(running, 20)
        assert len(consolidations(gateway)) == 1


async def test_a_restart_replays_no_correction_and_remembers_the_ring(tmp_path: Path) -> None:
    """The file's cursor and the ring were in memory only: a restart read every correction again and knew no op."""
    corrections = tmp_path / "corrections.jsonl"
    corrections.write_text(json.dumps(_CORRECTION) + "\n")
    async with observer(tmp_path) as running:
        await post(running, {"role": "cook"}, {"success": True})
        await cycles(running, 1)
        before = running.ring.ops()
    with corrections.open("a") as file:
        file.write(json.dumps({**_CORRECTION, "reason": "other"}) + "\n")
    async with observer(tmp_path) as running:
        assert running.ring.ops() == before
        await cycles(running, 2)
        assert running.ring.by_source == {"scenario": 2, "overseer_correction": 2}


async def test_corrections_are_no_successes_of_an_endpoint(tmp_path: Path) -> None:
    """They used to be consolidated into playbooks, as successful calls of `overseer:…`."""
    (tmp_path / "corrections.jsonl").write_text("".join(json.dumps({**_CORRECTION, "n": n}) + "\n" for n in range(8)))
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        await cycles(running, 10)
        assert (running.ring.by_source["overseer_correction"], gateway.posts("/log")) == (8, [])


async def test_corrections_are_in_the_journal(tmp_path: Path) -> None:
    """They used to be in memory only."""
    (tmp_path / "corrections.jsonl").write_text(json.dumps(_CORRECTION) + "\n")
    async with observer(tmp_path) as running:
        await cycles(running, 1)
        (line,) = journal(tmp_path)
        assert (line["source"], line["endpoint"]) == ("overseer_correction", "overseer:gpt-oss:120b")
        assert (line["input_summary"], line["correction"]) == ("staffing.fill: wrong city", _CORRECTION["correction"])


async def test_a_partial_last_line_is_waited_for(tmp_path: Path) -> None:
    """Half a line, also one cut inside a character, used to be dropped, and its rest with it."""
    corrections = tmp_path / "corrections.jsonl"
    line = json.dumps({**_CORRECTION, "reason": "Zürich 😀"}, ensure_ascii=False).encode() + b"\n"
    cut = line.index("😀".encode()) + 2
    async with observer(tmp_path) as running:
        for part in (line[:cut], line[cut:-5], line[-5:]):
            assert len(running.ring) == 0
            with corrections.open("ab") as file:
                file.write(part)
            await cycles(running, 1)
        (op,) = running.ring.ops()
        assert op.input_summary == "staffing.fill: Zürich 😀"


def _truncated(path: Path, line: str) -> None:
    with path.open("r+") as file:
        file.truncate(0)
        file.write(line)


def _rotated(path: Path, line: str) -> None:
    path.rename(path.with_suffix(".1"))
    path.write_text(line)


def _recreated(path: Path, line: str) -> None:
    path.unlink()
    path.write_text(line)


def _rewritten(path: Path, line: str) -> None:
    """In place, and longer than it was: the size tells nothing."""
    with path.open("r+") as file:
        file.write(line + " " * (path.stat().st_size + 10) + "\n")


@pytest.mark.parametrize("change", [_truncated, _rotated, _recreated, _rewritten])
async def test_a_file_that_begins_anew_is_read_anew(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    """The byte offset alone used to decide: what came after such a change was not read, or from its middle on."""
    corrections = tmp_path / "corrections.jsonl"
    corrections.write_text(json.dumps({**_CORRECTION, "reason": "first " * 50}) + "\n")
    async with observer(tmp_path) as running:
        await cycles(running, 1)
        change(corrections, json.dumps({"created_at": "2026-02-01T00:00:00Z", "reason": "second"}) + "\n")
        await cycles(running, 2)
        assert [op.input_summary.split(" ")[1] for op in running.ring.ops()] == ["first", "second"]


async def test_what_is_acknowledged_is_written(tmp_path: Path) -> None:
    """The answer used to come before the write: `kill -9` at 64 connections lost up to 124 acknowledged lines."""
    fault = FaultyFile.fresh()
    async with observer(tmp_path, open_file=fault) as running, client(running) as http:
        fault.open_gate.clear()
        waiting = asyncio.create_task(http.post("/event", content=b"{}"))
        async with asyncio.timeout(120):
            while running.ops_log.pending_bytes == 0:
                await http.get("/livez")
        assert not waiting.done()
        assert journal(tmp_path) == []
        fault.open_gate.set()
        assert (await waiting).status_code == 200
        assert len(journal(tmp_path)) == 1


async def test_a_write_failure_is_told(tmp_path: Path) -> None:
    """It used to be swallowed: the sender heard `accepted`, and nobody anything else."""
    fault = FaultyFile.fresh()
    async with observer(tmp_path, open_file=fault) as running, client(running) as http:
        fault.failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert (await http.post("/event", content=b"{}")).status_code == 503
        assert running.ops_log.write_errors == 1
        assert (await http.get("/stats")).json()["total"] == 0


async def test_lines_are_in_the_order_of_their_arrival(tmp_path: Path) -> None:
    """Every write was a task of its own: lines used to overtake one another."""
    async with observer(tmp_path) as running, client(running) as http:
        for number in range(100):
            await http.post("/event", content=b'{"count": %d}' % number)
        assert [line["count"] for line in journal(tmp_path)] == [*range(100)]


async def test_the_http_status_counts(tmp_path: Path) -> None:
    """A 500 with `{}` used to be a success."""
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        gateway.answers["/x"] = says({}, 500)
        _, op = await running.gateway.observed("/x", {}, "")
        assert (op.success, op.error_type) == (False, "500")


async def test_false_is_false(tmp_path: Path) -> None:
    """The word "false", `[]` and `{}` used to be true."""
    async with observer(tmp_path) as running, client(running) as http:
        await http.post("/event", json={"success": "false", "rescue_attempted": "false"})
        assert [(line["success"], line["rescue_attempted"]) for line in journal(tmp_path)] == [(False, False)]
        for body in (b'{"success": []}', b'{"success": {}}'):
            assert (await http.post("/event", content=body)).status_code == 422


async def test_averages_are_numbers(tmp_path: Path) -> None:
    """One duration that was no number made the endpoint's average NaN; one of 1e999 made it Infinity."""
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        async with client(running) as http:
            for duration in ('"soon"', "1e999", '"NaN"', "[]", "-1"):
                body = b'{"endpoint": "/fill", "success": true, "duration_ms": %b}' % duration.encode()
                assert (await http.post("/event", content=body)).status_code == 422
        await post(running, *({"endpoint": "/fill", "success": True, "duration_ms": 10} for _ in range(6)))
        await cycles(running, 5)
        assert [entry["result"] for entry in consolidations(gateway)] == ["avg_duration=10ms, 6 successes"]


async def test_only_objects_are_events(tmp_path: Path) -> None:
    """Arrays, numbers, texts and `true` used to be accepted, as failed fills of which nothing was known."""
    async with observer(tmp_path) as running, client(running) as http:
        for body in (b"[]", b"5", b'"x"', b"true"):
            assert (await http.post("/event", content=body)).status_code == 400
        assert len(running.ring) == 0


async def test_there_is_one_ring_limit(tmp_path: Path) -> None:
    """A gateway call used to cut the ring to 1000, an event to 2000: what `/stats` counted depended on the last op."""
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        await post(running, *({} for _ in range(2100)))
        await running.gateway.observed("/x", {}, "")
        await post(running, {})
        async with client(running) as http:
            assert (await http.get("/stats")).json()["total"] == 2000


async def test_any_answer_is_an_op(tmp_path: Path) -> None:
    """`{"answer": 5}` used to make `observed` throw, and the call was recorded nowhere."""
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        gateway.answers["/x"] = says({"answer": 5})
        data, op = await running.gateway.observed("/x", {}, "")
        assert (data, op.success, op.output_summary) == ({"answer": 5}, True, "answer: 5...")


async def test_no_character_is_cut_in_half(tmp_path: Path) -> None:
    """Slices counted UTF-16 units: half an emoji ended summaries and posts, and was no Unicode any more."""
    cut = Normalizer(Redactor()).cut
    assert summarize({"answer": "x" + "😀" * 100}, cut) == "answer: x" + "😀" * 79 + "..."
    async with (
        stand_in() as gateway,
        observer(tmp_path, GATEWAY_URL=gateway.url, LAKEHOUSE_URL=gateway.url) as running,
    ):
        gateway.answers["/ai/generate"] = says({"text": "a" + " ".join(f"seat😀{number}" for number in range(300))})
        await post(running, {"error": "b" + "😀" * 600})
        await cycles(running, 1)
        (entry,) = analyses(gateway)
        assert len(entry["result"]) == 500
        assert "\ufffd" not in entry["result"] + entry["context"]


async def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    """The program used to say nothing of use and exit with 0."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with observer(tmp_path, OBSERVER_PORT=port):
                pass
        status, said = await _run(tmp_path, OBSERVER_PORT=port)
    assert (status, port in said) == (1, True)


async def test_a_cycle_of_zero_is_refused(tmp_path: Path) -> None:
    """`OBSERVER_CYCLE=0` used to spin at 150,000 cycles a second; words made it NaN, which is the same."""
    for text in ("0", "-1", "soon", "NaN", "0.01"):
        with pytest.raises(SettingsError, match="OBSERVER_CYCLE"):
            settings(tmp_path, OBSERVER_CYCLE=text)
    status, said = await _run(tmp_path, OBSERVER_CYCLE="0")
    assert (status, "OBSERVER_CYCLE" in said) == (64, True)


async def _run(tmp_path: Path, **env: str) -> tuple[int | None, str]:
    """The exit status of `observer run` with *env*, and what it says."""
    data = {"OBSERVER_DATA_DIR": str(tmp_path / "run"), "OBSERVER_HEALTH_PORT": "0", "OBSERVER_GRPC_PORT": "-1"}
    data["OBSERVER_PROXY_PORT"] = "-1"
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sidecar", "run"),
        env={"PATH": os.environ.get("PATH", ""), **data, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(program.communicate(), 60)
    return program.returncode, output.decode()


async def test_a_large_body_is_not_kept(tmp_path: Path) -> None:
    """A body of 100 MB used to take 800 MB of memory."""
    async with observer(tmp_path) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        before = _peak_kib()
        writer.write(b"POST /events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"f4240\r\n" + bytes(1_000_000) + b"\r\n"
        try:
            for _ in range(100):
                writer.write(chunk)
                await writer.drain()
        except ConnectionError:
            pass  # it was given up
        writer.close()
        assert running.budget.used == 0
        assert _peak_kib() - before < 150_000
        async with client(running) as http:
            assert (await http.get("/health")).status_code == 200


def _peak_kib() -> int:
    """The most memory this process has had resident."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


async def test_strangers_are_kept_out(tmp_path: Path) -> None:
    """There was no authentication, and the door listened on all interfaces."""
    assert settings(tmp_path).host == "127.0.0.1"
    with pytest.raises(SettingsError):
        settings(tmp_path, OBSERVER_HOST="0.0.0.0")
    async with observer(tmp_path, OBSERVER_TOKEN="t") as running, client(running) as http:
        assert (await http.post("/event", content=b"{}")).status_code == 401
        assert (await http.get("/stats")).status_code == 401
