"""The demo: its gateway's rules, its overseer, what it shows, and a whole short run."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec
import pytest
from rich.console import Console

from sidecar.analysis.diagnosis_text import counted_diagnosis
from sidecar.analysis.rule_fit import RuleSaid
from sidecar.demo.agents import Agent, Job
from sidecar.demo.counted_ops import CountedOps
from sidecar.demo.findings import Findings
from sidecar.demo.gateway_process import gateway_process
from sidecar.demo.lessons import Lessons
from sidecar.demo.observer_doors import ObserverDoors, Seen
from sidecar.demo.overseer import Overseer
from sidecar.demo.plain_lines import PlainLines, opening, summary
from sidecar.demo.screen import LiveScreen
from sidecar.demo.wording import RunInfo
from sidecar.model import Incident, ObservedOp
from sidecar.model_learning import ArmResult, Measured, PlaybookView
from tests.fakes import an_op
from tests.observers import says, stand_in
from tests.test_rule_fit import OLD, a_rule

_JOB = Job("t-1", "STF-anna", "recurring", "picker", "Reno", "NV", 2, certified=False, channel="app")
_WHOLE_RUN = """
import sys
from sidecar.demo.runner import main
sys.exit(main(3, plain=True, port=0, data_dir=sys.argv[1], seed=5))
"""


_CALLS: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("fill_shift", {}, 200, None),
    ("fill_shift", {"certified": False}, 403, r"worker \w+ holds no NV certificate \(policy CRT-\d+\)"),
    ("match", {"certified": False}, 403, "holds no NV certificate"),
    ("search_workers", {"certified": False}, 200, None),
    ("fill_shift", {"city": "Boise", "state": "ID"}, 200, "office is closed until"),
    ("fill_shift", {"channel": "sms"}, 502, "sms relay did not take the notice"),
    ("fill_shift", {"count": 9}, 200, r"9 workers asked for, shift SFT-\d+ has room for \d"),
    ("ask", {"role": "drone pilot"}, 422, "no such role: 'drone pilot'"),
    ("fill_shift", {"city": "Nowhere"}, 404, "no office in 'Nowhere'"),
    ("fill_shift", {"count": "many"}, 400, "bad request body"),
]


async def test_gateway_refuses_for_reasons(tmp_path: Path) -> None:
    """Each rule has its status and message; what breaks no rule is answered without an error."""
    call = {"role": "picker", "city": "Reno", "state": "NV", "count": 2, "certified": True}
    async with gateway_process(1, tmp_path / "log") as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        for tool, body, status, error in _CALLS:
            answer = await client.post(f"/tools/{tool}", json={**call, **body})
            said = answer.json().get("error")
            assert answer.status_code == status, (tool, body)
            assert said is None if error is None else re.search(error, said), (tool, body, said)


async def test_gateway_keeps_a_post_once_and_ends_with_its_starter(tmp_path: Path) -> None:
    """A repeated Idempotency-Key is logged once; once the pipe to it is closed the gateway is gone."""
    async with gateway_process(1, tmp_path / "log") as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        for _ in range(2):
            await client.post("/log", json={"operation": "x"}, headers={"Idempotency-Key": "k"})
        assert (await client.get("/log")).json() == {"entries": [{"operation": "x"}]}
        assert (await client.get("/health")).json()["status"] == "ok"
    async with httpx.AsyncClient(timeout=30) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/health")


def test_overseer_writes_a_correction_at_four_failures_and_at_eight(tmp_path: Path) -> None:
    """Rows have the fields that the corrections tailer reads, and come ever more rarely."""
    path = tmp_path / "corrections.jsonl"
    overseer = Overseer(path, Random(1))
    for _ in range(9):
        overseer.notice(_JOB, "worker amy_1 holds no NV certificate")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["applied_at_turn"] for row in rows] == [4, 8]
    assert rows[0]["sig_hash"] == _JOB.sig_hash
    assert "certified=true" in rows[0]["correction"]
    assert rows[0]["usage"]["latency_ms"] > 0


def _seen(text: str) -> Seen:
    seen = Seen()
    why = "common to the failures, rare among the successes: features.city=Boise (4 failures, 0 successes); "
    seen.incidents = [
        Incident(
            fingerprint=f"v1-{number}",
            endpoint="/tools/fill_shift",
            message=text,
            state="new",
            kind="failure",
            count=number,
            first_seen="2026-01-01T00:00:00.000Z",
            last_seen="2026-01-01T00:00:00.000Z",
            diagnosed_count=number,
            diagnosed_by="statistics",
            diagnosis=f"[/tools/fill_shift] 4 failures since t: {text} — {why}state=ID (4 failures, 0 successes).",
        )
        for number in range(1, 40)
    ]
    seen.findings.take(seen.incidents)
    entry = PlaybookView(
        playbook_id="pb-1",
        version=1,
        at="2026-01-01T00:00:00.000Z",
        state="candidate",
        kind="do",
        endpoint=text,
        text=text,
        successes=3,
        avg_duration_ms=2.0,
    )
    seen.playbooks = [entry] * 20
    for _ in range(60):
        seen.add(
            ObservedOp(
                timestamp="2026-01-01T00:00:00.000Z",
                endpoint=text,
                input_summary=text,
                success=False,
                duration_ms=1,
                output_summary=text,
            )
        )
    return seen


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (100, 30), (200, 70)])
@pytest.mark.parametrize("seconds", [None, 20.0])
def test_screen_fills_the_terminal_and_never_overflows(size: tuple[int, int], seconds: float | None) -> None:
    """However much there is to show, the picture has the terminal's lines and columns, and no control characters."""
    console = Console(width=size[0], height=size[1], force_terminal=True, color_system=None)
    screen = LiveScreen(
        console,
        RunInfo("http://127.0.0.1:3800", "http://127.0.0.1:3700", "http://127.0.0.1:3701", 6, 1, seconds, "/tmp/demo"),
    )
    with console.capture() as captured:
        console.print(screen.draw(_seen("a\x1b[2Jlong [bold]text " * 30), 5.0))
    lines = captured.get().splitlines()
    assert len(lines) == size[1]
    assert max(len(line) for line in lines) <= size[0]
    assert "\x1b[2J" not in captured.get()


@pytest.mark.parametrize(
    ("seconds", "is_given", "end"),
    [
        (None, False, "at Ctrl-C, with a summary; --seconds N ends it by itself"),
        (30.0, True, "after 30 s (--seconds), with a summary"),
        (40.0, False, "after 40 s (as there is no terminal; --seconds N says otherwise), with a summary"),
    ],
)
def test_the_first_lines_say_when_it_ends(seconds: float | None, end: str, *, is_given: bool) -> None:
    """Who waits for the end knows whether it comes by itself."""
    info = RunInfo("http://a", "http://g", "http://p", 6, 1, seconds, "/tmp/demo", is_limit_given=is_given)
    assert list(opening(info))[1] == f"  ends     {end}"


def test_news_is_told_once() -> None:
    """What was said is not said again; fields that share their numbers are said together."""
    lines, seen = PlainLines(100), _seen("closed")
    told = " ".join(" ".join(lines.news(seen, 1.0)).split())
    assert told.count("they share city=Boise, state=ID (4 failures, 0 successes)") == 39
    assert list(lines.news(seen, 2.0)) == []


def test_a_models_words_are_given_whole() -> None:
    """A diagnosis that is not one line an incident is shown as it is, on one line."""
    seen = _seen("closed")
    incident = seen.incidents[0]
    incident.diagnosis, incident.diagnosed_by = "Two causes:\n1. closed", "qwen2.5"
    findings = Findings()
    findings.take([incident])
    assert findings.newest_first()[0].why == "Two causes: 1. closed"


def test_a_rule_on_other_failures_explains_nothing() -> None:
    """An incident whose diagnosis says so is not counted among those of which it is known what sets them apart."""
    seen = _seen("closed")
    incident = seen.incidents[0]
    incident.diagnosis = counted_diagnosis(incident, (), RuleSaid(a_rule(OLD), fits=False))
    findings = Findings()
    findings.take([incident])
    assert findings.newest_first()[0].is_open


async def test_a_bounded_run_ends_by_itself_with_a_true_summary(tmp_path: Path) -> None:
    """Exit status 0, lines of at most 100 columns, and the operations of the whole journal, each counted once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WHOLE_RUN, str(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    text = out.decode()
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 100
    journal = [json.loads(line) for line in (tmp_path / "_observer" / "ops.jsonl").read_bytes().splitlines()]
    amended = {op_id for op in journal for op_id in (op.get("amends") or "").split()}
    operations = [op for op in journal if op["op_id"] not in amended]
    counted = re.search(r"operations  (\d+) \([\d.]+/s\): (.*)\n  failures    (\d+) \(", text)
    assert counted is not None
    assert int(counted[1]) == len(operations) > 0
    assert int(counted[3]) == sum(not op["success"] for op in operations)
    by_source = Counter(op["source"] for op in operations)
    assert counted[2] == ", ".join(f"{source} {count}" for source, count in by_source.most_common())
    assert "mcp" in {op["source"] for op in journal}
    assert str(tmp_path / "_observer" / "ops.jsonl") in text
    assert "[observer]" in (tmp_path / "observer.log").read_text()


def test_an_operation_counts_once_by_its_latest_record() -> None:
    """A record that amends others replaces them, under any of their names; one that amends an unknown one is new."""
    counted = CountedOps()
    counted.add(an_op(op_id="a", success=False))
    counted.add(an_op(op_id="b", success=False, source="langfuse"))
    assert (counted.ops, counted.failures) == (2, 2)
    counted.add(an_op(op_id="c", success=False, amends="a b", source="mcp"))
    assert (counted.ops, counted.failures, counted.by_source) == (1, 1, {"mcp": 1})
    counted.add(an_op(op_id="d", success=True, amends="a", source="langfuse"))
    assert (counted.ops, counted.failures, counted.by_source) == (1, 0, {"langfuse": 1})
    counted.add(an_op(op_id="e", success=True, amends="never-seen", source="mcp"))
    assert (counted.ops, counted.by_source) == (2, {"langfuse": 1, "mcp": 1})


def test_what_the_stream_did_not_deliver_is_counted() -> None:
    """The observer's own number of operations stands in while records are missing."""
    seen = Seen()
    seen.add(an_op(op_id="a"))
    seen.recorded = 3
    assert (seen.ops, seen.counted.ops) == (3, 1)


def test_incidents_of_the_summary_have_their_present_counts() -> None:
    """Not those at the last diagnosis; the largest comes first."""
    seen = _seen("closed")
    for number, incident in enumerate(seen.incidents):
        incident.message = f"closed {number}"
        incident.count += 100 if number == 3 else 0
    seen.findings.take(seen.incidents)
    info = RunInfo("http://x", "http://x", "http://x", 6, 1, 20.0, "/tmp/demo")
    lines = list(summary(info, seen, 20.0, [], []))
    first = next(at for at, line in enumerate(lines) if "incidents   39" in line) + 1
    assert lines[first].split()[0] == "104"
    assert "closed 3" in lines[first]


def an_entry(shown: tuple[int, int], withheld: tuple[int, int], effect: float | None) -> PlaybookView:
    arms = [ArmResult(tasks=tasks, successes=successes, assigned=tasks) for tasks, successes in (shown, withheld)]
    low, high = (None, None) if effect is None else (effect - 0.2, effect + 0.2)
    return PlaybookView(
        playbook_id="pb-2",
        version=1,
        at="2026-01-01T00:00:00.000Z",
        kind="avoid",
        endpoint="/tools/fill_shift",
        text='Avoid channel="sms"',
        successes=3,
        avg_duration_ms=0.0,
        author="rule",
        set={"channel": "app"},
        state="candidate",
        measured=Measured(shown=arms[0], withheld=arms[1], effect=effect, low=low, high=high),
    )


def test_the_lines_of_the_told_and_the_others_part() -> None:
    """A point every few seconds is what came in since the last one; both lines and the effect are printed."""
    seen = _seen("closed")
    assert seen.lessons.best() is None
    seen.lessons.take([an_entry((0, 0), (0, 0), None)], 0.0)
    assert list(PlainLines(100).lesson(seen, 1.0)) == []
    seen.lessons.take([an_entry((10, 10), (10, 1), 0.9)], 4.0)
    seen.lessons.take([an_entry((20, 15), (10, 1), 0.65)], 8.0)
    lesson = seen.lessons.best()
    assert lesson is not None
    assert (lesson.shown.rates[-2:], lesson.withheld.rates[-2:]) == ([1.0, 0.5], [0.1, None])
    assert lesson.effect.startswith("+65 points (+45 to +85), ")
    shown, withheld = PlainLines(100).lesson(seen, 8.0)
    assert "█▅" in shown
    assert "75 % of 20 tasks" in shown
    assert "10 % of 10 tasks" in withheld
    console = Console(width=100, height=40, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(
            LiveScreen(
                console,
                RunInfo(
                    "http://127.0.0.1:3800", "http://127.0.0.1:3700", "http://127.0.0.1:3701", 6, 1, None, "/tmp/demo"
                ),
            ).draw(seen, 9.0)
        )
    assert "75 % of 20 tasks succeed" in captured.get()


def test_the_summary_has_the_effect_of_all_advice_and_then_the_best_entry() -> None:
    """The first is the figure of `observer stats`; what goes to the gateway's log is not called the playbook."""
    seen = _seen("closed")
    seen.lessons.take([an_entry((60, 50), (20, 2), 0.7)], 0.0)
    seen.measured = an_entry((90, 60), (40, 9), 0.44).measured
    info = RunInfo("http://x", "http://x", "http://x", 6, 1, 20.0, "/tmp/demo")
    posts = [{"operation": "error_analysis: 9 failures"}, {"operation": "consolidated: 5 successful calls"}]
    text = "\n".join(summary(info, seen, 20.0, posts, []))
    assert "\n  advice      +44 points (+24 to +64), 90 shown, 40 withheld\n" in text
    assert "\n              the best of one entry, +70 points (+50 to +90), 60 shown, 20 withheld (candidate):" in text
    assert "\n  summaries   20 of successes, posted to the gateway's /log\n" in text
    assert "/log has 2 posts: 1 diagnoses, 1 summaries" in text
    assert "playbook" not in text


async def test_the_demo_reads_the_effect_of_all_advice(tmp_path: Path) -> None:
    """From `/stats`, as everybody else does."""
    measured = an_entry((90, 60), (40, 9), 0.44).measured
    async with stand_in() as stub:
        stub.answers["/stats"] = says({"cycle": 3, "advice": {"measured": msgspec.to_builtins(measured)}})
        stub.answers["/incidents"] = says({"incidents": []})
        stub.answers["/playbooks"] = says({"playbooks": []})
        async with httpx.AsyncClient(base_url=stub.url, trust_env=False) as http:
            doors = ObserverDoors(http)
            await doors.look()
    assert (doors.seen.cycle, doors.seen.measured) == (3, measured)


def test_what_was_known_stays_the_lesson_while_an_entry_is_measured_anew() -> None:
    """A few tasks of a new version, or of another entry, do not take the place of what many showed."""
    lessons = Lessons()
    lessons.take([an_entry((0, 0), (0, 0), None)], 0.0)
    lessons.take([an_entry((60, 50), (20, 2), 0.7)], 4.0)
    anew = msgspec.structs.replace(an_entry((3, 3), (1, 0), 0.15), version=2)
    lessons.take([anew], 8.0)
    best = lessons.best()
    assert best is not None
    assert (best.entry.version, best.state) == (1, "version 1, measured anew since")
    assert best.effect.startswith("+70 points")
    lessons.take([msgspec.structs.replace(an_entry((80, 70), (30, 3), 0.8), version=2)], 12.0)
    best = lessons.best()
    assert best is not None
    assert (best.entry.version, best.state) == (2, "candidate")
    assert best.shown.rates == [1.0, 67 / 77]  # its own tasks alone


async def test_an_agent_does_as_it_is_told_where_it_may_choose() -> None:
    """Channel and certificate are its own to choose, the city is not; the call names the exposure."""
    told = {"exposure_id": "ex-1", "advice": [{"set": {"channel": "email", "city": "Reno"}}, {"set": {}}]}
    door, gateway = _Door(told), _Gateway()
    agent = Agent("STF-x", gateway, door, on_failure=lambda *_: None, dice=Random(3), stopping=asyncio.Event())
    await agent.work(replace(_JOB, city="Denver", channel="sms"))
    endpoint, body, fields = gateway.calls[-1]
    assert (endpoint, body["channel"], body["city"], fields["exposure_id"]) == (
        "/tools/fill_shift", "email", "Denver", "ex-1"
    )  # fmt: skip
    assert (door.asked["endpoint"], door.asked["task"]) == ("/tools/fill_shift", "t-1")
    assert {"city", "role", "count"} <= set(door.asked["given"].split(","))


class _Door:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.asked: dict[str, str] = {}

    async def post(self, event: dict[str, Any]) -> None: ...

    async def post_batch(self, events: list[dict[str, Any]]) -> None: ...

    async def advice(self, params: dict[str, str]) -> dict[str, Any]:
        self.asked = params
        return self.told


class _Gateway:
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []

    async def observed(self, endpoint: str, body: Any, description: str, **fields: Any) -> tuple[Any, ObservedOp]:
        self.calls.append((endpoint, body, fields))
        return {}, an_op(endpoint=endpoint, success=True)
