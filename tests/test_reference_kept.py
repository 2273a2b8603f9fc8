"""Request by request against the program that this one re-creates, run under Bun where both are there.

Bun is found by `OBSERVER_TEST_BUN` or on the PATH, the program in `../shared/reference`; otherwise these are skipped.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.observers import Answer, StandIn, client, cycle, journal, observer, says, settled, stand_in

_PROGRAM = Path(__file__).resolve().parents[2] / "shared" / "reference" / "observer.ts"
_BUN = os.environ.get("OBSERVER_TEST_BUN") or shutil.which("bun")
_PRELOAD = """
const serve = Bun.serve;
Bun.serve = (options) => {  // the program listens on all interfaces: not in a test
  const server = serve({ ...options, hostname: "127.0.0.1" });
  console.log(server.port);
  return server;
};
"""
_CALLER = """
import { observed } from %s;
for (const [endpoint, body, description] of JSON.parse(process.argv[2])) {
  try {
    const { data, op } = await observed(endpoint, body, description);
    console.log(JSON.stringify({ data, op }));
  } catch (e) {
    console.log(JSON.stringify({ threw: String(e) }));
  }
}
"""
pytestmark = [
    pytest.mark.skipif(_BUN is None, reason="bun, which runs the original program, is not installed"),
    pytest.mark.skipif(not _PROGRAM.exists(), reason="the original program is not beside this repository"),
]

_AT = "2026-01-31T08:15:00.000Z"
_EVENTS: list[dict[str, Any]] = [
    {},
    {"success": True},
    {"success": False, "error": "no shift", "timestamp": _AT},
    {
        "timestamp": _AT,
        "endpoint": "scenario:cancel",
        "event_kind": "cancel",
        "role": "welder",
        "count": 3,
        "city": "Reno",
        "state": "NV",
        "success": True,
        "duration_ms": 120,
        "staffer_id": "s1",
        "sig_hash": "abc",
        "rescue_attempted": True,
        "rescue_succeeded": False,
    },
    {"success": True, "output_summary": "3 filled", "input_summary": "mine", "source": "langfuse", "duration_ms": 1.5},
    {"duration_ms": "250", "count": 2, "city": "Zürich × 😀", "state": None},
    {"source": "overseer_correction", "success": True, "endpoint": ""},
    {"success": 1, "error": "kept though it succeeded", "rescue_attempted": 1},
    {"success": 0, "output_summary": "", "error": ""},
]


def environment(gateway: StandIn) -> dict[str, str]:
    """What the reference reads, and nothing else of ours."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "GATEWAY_URL": gateway.url,
        "LAKEHOUSE_URL": gateway.url,
        "OBSERVER_PORT": "0",
        "OBSERVER_CYCLE": "1",
    }


def _write(path: Path, program: str) -> None:
    path.parent.mkdir()
    path.write_text(program)


@asynccontextmanager
async def reference(folder: Path, gateway: StandIn) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the original program, which runs in *folder* on a port of its own."""
    _write(folder / "preload.ts", _PRELOAD)
    program = await asyncio.create_subprocess_exec(
        *(str(_BUN), "--preload", "./preload.ts", str(_PROGRAM)),
        cwd=folder,
        env=environment(gateway),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert program.stdout is not None
    try:
        port = int(await asyncio.wait_for(program.stdout.readline(), 30))
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as http:
            yield http
    finally:
        program.kill()
        await program.communicate()


async def test_events_stats_health_and_journal_are_as_they_were(tmp_path: Path) -> None:
    """The same posts to both: answers, `/stats`, `/health` and journal lines hold what they held, ours more besides."""
    async with (
        stand_in() as gateway,
        reference(tmp_path / "theirs", gateway) as theirs,
        observer(tmp_path) as running,
        client(running) as ours,
    ):
        for event in _EVENTS:
            their_answer, our_answer = [(await http.post("/event", json=event)).json() for http in (theirs, ours)]
            assert our_answer.items() >= their_answer.items(), event
        assert (await ours.get("/health")).json().items() >= (await theirs.get("/health")).json().items()
        their_stats, our_stats = [(await http.get("/stats")).json() for http in (theirs, ours)]
        for stats in (their_stats, our_stats):
            for op in stats["recent_scenario_ops"]:
                op["ts"] = op["ts"] if op["ts"] == _AT else "now"
        assert our_stats.items() >= their_stats.items()
        their_lines = (tmp_path / "theirs" / "data" / "_observer" / "ops.jsonl").read_text().splitlines()
        for event, theirs_is, ours_is in zip(_EVENTS, map(json.loads, their_lines), journal(tmp_path), strict=True):
            if "timestamp" not in event:
                assert len(theirs_is.pop("timestamp")) == len(ours_is["timestamp"])
            assert {name: ours_is.get(name) for name in theirs_is} == theirs_is | _put_right(event)


def _put_right(event: dict[str, Any]) -> dict[str, Any]:
    """Where ours differs on purpose: null is absent now."""
    return dict.fromkeys(name for name, value in event.items() if value is None)


async def test_paths_and_refusals_are_as_they_were(tmp_path: Path) -> None:
    """What was unknown is, what was malformed is."""
    async with (
        stand_in() as gateway,
        reference(tmp_path / "theirs", gateway) as theirs,
        observer(tmp_path) as running,
        client(running) as ours,
    ):
        for method, path, content in (
            ("GET", "/nowhere", None),
            ("POST", "/nowhere", b"{}"),
            ("POST", "/event", b"{"),
            ("POST", "/event", b""),
            ("POST", "/event", b"null"),
        ):
            statuses = {(await http.request(method, path, content=content)).status_code for http in (theirs, ours)}
            assert len(statuses) == 1, (path, content)


async def test_the_first_analysis_and_consolidation_are_posted_as_they_were(tmp_path: Path) -> None:
    """Same failures and successes: same request to the model, same entries for the gateway's log, word for word."""
    events: list[dict[str, Any]] = [
        {"endpoint": "/fill", "error": "city closed", "input_summary": f"fill {n}"} for n in range(2)
    ]
    events += [
        {"endpoint": "/fill", "success": True, "duration_ms": 10 + n, "input_summary": f"good {n}"} for n in range(6)
    ]
    async with stand_in() as their_gateway, stand_in() as our_gateway:
        for gateway in (their_gateway, our_gateway):
            gateway.answers["/ai/generate"] = says({"text": " ".join(f"Ask for city {n} 😀 only." for n in range(60))})
        async with reference(tmp_path / "theirs", their_gateway) as theirs:
            for event in events:
                await theirs.post("/event", json=event)
            await asyncio.wait_for(their_gateway.wait_for("/log", 6), 60)  # an analysis a second, one consolidation
        async with observer(tmp_path, GATEWAY_URL=our_gateway.url, LAKEHOUSE_URL=our_gateway.url) as running:
            async with client(running) as ours:
                for event in events:
                    await ours.post("/event", json=event)
            for _ in range(5):
                await cycle(running)
    their_prompt, our_prompt = [gateway.posts("/ai/generate")[0] for gateway in (their_gateway, our_gateway)]
    assert {**our_prompt, "prompt": ""} == {**their_prompt, "prompt": ""}
    assert our_prompt["prompt"].replace("```\n", "") == their_prompt["prompt"]
    their_log, our_log = their_gateway.posts("/log"), our_gateway.posts("/log")
    assert [entry["operation"] for entry in our_log] == [
        "error_analysis: 2 failures",
        "consolidated: 6 successful /fill calls",
    ]
    assert our_log[0].keys() == their_log[0].keys()
    assert {**our_log[0], "result": ""} == {**their_log[0], "result": ""}
    assert len(our_log[0]["result"]) <= 500
    whole = their_log[0]["result"].encode("utf-16", "surrogatepass").decode("utf-16", "replace").rstrip("\ufffd")
    assert our_log[0]["result"].startswith(whole)
    assert our_log[1] == next(entry for entry in their_log if entry["operation"].startswith("consolidated"))


_CALLS: list[tuple[str, Answer]] = [
    ("/hybrid", says({"sql_matches": 12, "vector_reranked": 3, "rows": [1]})),
    ("/hybrid-0", says({"sql_matches": 0, "vector_reranked": 0})),
    ("/rows", says({"rows": [1, 2, 3]})),
    ("/row-count", says({"rows": [1, 2, 3], "row_count": 40})),
    ("/no-rows", says({"rows": []})),
    ("/answer", says({"answer": "because " * 30})),
    ("/short", says({"answer": "yes"})),
    ("/sources", says({"sources": ["a", "b"]})),
    ("/no-sources", says({"sources": []})),
    ("/other", says({"ok": True, "text": "x" * 200, "nothing": None})),
    ("/list", says([1, "two", {"three": 3}])),
    ("/error", says({"error": "no shift"})),
    ("/empty-error", says({"error": "", "a": 1})),
    ("/both", says({"error": "no shift", "rows": [1]}, 409)),
]


async def test_observed_answers_and_ops_are_as_they_were(tmp_path: Path) -> None:
    """The same calls through both wrappers: same data, same wordings, same failures, same requests."""
    calls = [(endpoint, {"q": number}, f"call {number}") for number, (endpoint, _) in enumerate(_CALLS)]
    async with stand_in() as gateway, observer(tmp_path, GATEWAY_URL=gateway.url) as running:
        gateway.answers.update(_CALLS)
        script = tmp_path / "theirs" / "calls.ts"
        _write(script, _CALLER % json.dumps(str(_PROGRAM)))
        program = await asyncio.create_subprocess_exec(
            *(str(_BUN), str(script), json.dumps(calls)),
            cwd=tmp_path / "theirs",
            env=environment(gateway),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await program.communicate()
        theirs = [json.loads(line) for line in output.splitlines()]
        asked = [(each.path, each.json(), each.headers["content-type"]) for each in gateway.asked]
        gateway.asked.clear()
        for call, their in zip(calls, theirs, strict=True):
            data, op = await running.gateway.observed(*call)
            assert data == their["data"]
            for name in ("endpoint", "input_summary", "success", "output_summary", "error"):
                assert getattr(op, name) == their["op"].get(name), (call, name)
        assert [(each.path, each.json(), each.headers["content-type"]) for each in gateway.asked] == asked
        await settled(running, len(calls))
        stats = running.ring
        assert (stats.successes, stats.by_source["mcp"]) == (
            sum(their["op"]["success"] for their in theirs),
            len(calls),
        )
