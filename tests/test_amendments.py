"""An op that amends another: doors, counts, incidents and playbooks show the latest word, after restarts as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import cli
from sidecar.analysis.incidents import IncidentBook
from sidecar.analysis.success_book import SuccessBook
from sidecar.model import ObservedOp
from sidecar.pipeline.observer import Observer
from sidecar.protocols import OpCounter
from sidecar.store.checkpoint_copy import dumped
from sidecar.store.fan_out import hand_on
from sidecar.store.latest_ops import LatestOps
from tests.fakes import an_op
from tests.observers import client, cycle, journal, observer, stand_in
from tests.proxied import proxied, proxy_port

FAILED = {"endpoint": "/tools/fill", "success": False, "error": "no seat", "role": "welder", "features": {"n": 1}}


async def posted(running: Observer, *events: dict[str, Any]) -> None:
    async with client(running) as http:
        answer = (await http.post("/events", json=list(events))).json()
        assert answer["rejected"] == []


async def seen(running: Observer) -> tuple[dict[str, Any], list[Any], list[Any]]:
    """The counts of `/stats`, the incidents, and what works by endpoint."""
    async with client(running) as http:
        stats, incidents = (await http.get("/stats")).json(), (await http.get("/incidents")).json()["incidents"]
    counts = {name: stats[name] for name in ("total", "successes", "failures", "by_source")}
    rows = [(row.endpoint, row.successes) for row in running.books.successes.endpoints()]
    return counts, [(each["fingerprint"], each["count"], each["by_role"]) for each in incidents], rows


def last_id(tmp_path: Path) -> str:
    op_id: str = journal(tmp_path)[-1]["op_id"]
    return op_id


async def test_a_failure_that_turns_out_a_success_is_none(tmp_path: Path) -> None:
    """It is un-counted everywhere, and the journal keeps both; so it is after a restart."""
    async with observer(tmp_path) as running:
        await posted(running, FAILED)
        first = last_id(tmp_path)
        assert [count for _, count, _ in (await seen(running))[1]] == [1]
        await posted(running, {**FAILED, "success": True, "error": None, "amends": first})
        view = await seen(running)
        assert view == (
            {"total": 1, "successes": 1, "failures": 0, "by_source": {"scenario": 1}},
            [],
            [("/tools/fill", 1)],
        )
        assert len(journal(tmp_path)) == 2
    async with observer(tmp_path) as running:
        assert await seen(running) == view


async def test_a_late_score_makes_a_success_a_failure_once(tmp_path: Path) -> None:
    """However often it is said: the last word counts, under the incident that it belongs to."""
    async with observer(tmp_path) as running:
        await posted(running, {"endpoint": "/tools/fill", "success": True, "role": "welder"})
        first = last_id(tmp_path)
        for _ in range(3):
            await posted(running, {**FAILED, "amends": first})
        counts, incidents, successes = await seen(running)
        assert (counts["total"], counts["failures"]) == (1, 1)
        assert [(count, roles) for _, count, roles in incidents] == [(1, {"welder": 1})]
        assert successes == []
        async with client(running) as http:
            amendments = (await http.get("/stats")).json()["amendments"]
        assert amendments == {"in_ring": 3, "taken": 3, "of_unknown_ops": 0, "repeated_ops": 0, "with_too_many_ids": 0}


async def test_an_op_may_show_two_to_be_one(tmp_path: Path) -> None:
    """It names both, with a space between."""
    async with observer(tmp_path) as running:
        await posted(running, FAILED, {**FAILED, "role": "cook"})
        both = " ".join(line["op_id"] for line in journal(tmp_path))
        await posted(running, {**FAILED, "amends": both})
        counts, incidents, _ = await seen(running)
        assert counts["total"] == 1
        assert [(count, roles) for _, count, roles in incidents] == [(1, {"welder": 1})]


async def test_more_ids_than_are_read_are_refused(tmp_path: Path) -> None:
    """At the doors for events; of an operation that comes in another way the first sixteen count, which is counted."""
    async with stand_in() as gateway, proxied(tmp_path, gateway.url) as running, client(running) as http:
        await posted(running, *[FAILED] * 17)
        names = [line["op_id"] for line in journal(tmp_path)]
        refused = await http.post("/event", json={**FAILED, "amends": " ".join(names)})
        assert refused.status_code == 422
        assert "expected at most 16 ids, with a space between" in refused.json()["error"]
        assert len(journal(tmp_path)) == 17
        with running.feed.watch(lambda op: op.amends is not None) as watch:
            named = {"X-Observer-Op-Amends": " ".join(names)}
            await http.get(f"http://127.0.0.1:{proxy_port(running)}/x", headers=named)
            batches = watch.batches(0.2)
            while not await anext(batches):
                pass
        amendments = (await http.get("/stats")).json()["amendments"]
        assert (amendments["taken"], amendments["with_too_many_ids"]) == (16, 1)


async def test_an_amendment_of_an_unknown_op_counts(tmp_path: Path) -> None:
    """Rather twice than not at all; that it was so is said."""
    async with observer(tmp_path) as running:
        await posted(running, {**FAILED, "amends": "long-gone"})
        assert (await seen(running))[0]["failures"] == 1
        assert running.books.latest.unknown == 1


async def test_amended_ops_are_shown_to_who_asks(tmp_path: Path) -> None:
    """`/ops` has the latest; with `amended=true` all, each with what took its place; pages go on from either."""
    async with observer(tmp_path) as running, client(running) as http:
        await posted(running, FAILED)
        first = last_id(tmp_path)
        await posted(running, {"endpoint": "/other", "success": True}, {**FAILED, "success": True, "amends": first})
        latest = last_id(tmp_path)
        ops = (await http.get("/ops")).json()["ops"]
        assert [op["endpoint"] for op in ops] == ["/tools/fill", "/other"]
        everything = (await http.get("/ops", params={"amended": "true"})).json()["ops"]
        assert [op.get("amended_by") for op in everything] == [None, None, latest]
        assert everything[-1]["op_id"] == first
        behind = (await http.get("/ops", params={"cursor": first})).json()
        assert behind == {"ops": []}


async def test_a_replay_comes_to_the_same_counts(tmp_path: Path) -> None:
    """Byte for byte, with amendments across restarts and saves."""
    for life in range(3):
        async with observer(tmp_path) as running:
            for number in range(4):
                lines = journal(tmp_path)
                older = [line["op_id"] for line in lines[-7::3]]
                await posted(
                    running,
                    {**FAILED, "error": f"no seat in hall {life}", "city": f"c{number}"},
                    {"endpoint": "/tools/fill", "success": True, "duration_ms": number * 0.7},
                    *({**FAILED, "success": number % 2 > 0, "amends": name} for name in older),
                )
                if number % 2:
                    await cycle(running)
    state = tmp_path / "data" / "state.db"
    before = dumped(state)
    assert b'"by": ' in before
    dump = tmp_path / "dump.json"
    arguments = ["replay", "--data-dir", str(tmp_path / "data"), "--dump", str(dump)]
    assert await asyncio.to_thread(cli.main, arguments) == 0
    assert dump.read_bytes() == before


def fed(book: OpCounter, ops: Iterable[ObservedOp]) -> LatestOps:
    latest = LatestOps()
    for op in ops:
        replaced = latest.take(op)
        if replaced is not None:
            hand_on(book, (op, replaced))
    return latest


@st.composite
def histories(draw: st.DrawFn) -> list[ObservedOp]:
    """Ops of a few endpoints, staffers and errors, some of which amend others."""
    names = st.integers(0, 30).map(str)
    few = st.sampled_from(["a", "b", "c"])
    return [
        an_op(
            op_id=str(number),
            endpoint=draw(few),
            success=draw(st.booleans()),
            error=draw(few),
            role=draw(st.one_of(st.none(), few)),
            city=draw(few),
            staffer_id=draw(few),
            duration_ms=draw(st.integers(0, 9)),
            features={draw(few): draw(st.integers(0, 3))},
            amends=draw(st.one_of(st.none(), st.lists(names, min_size=1, max_size=2).map(" ".join))),
        )
        for number in range(draw(st.integers(0, 30)))
    ]


@settings(deadline=None)
@given(histories())
def test_books_count_as_if_amended_ops_had_never_been(ops: list[ObservedOp]) -> None:
    """Counts by incident and by value, and successes with their time, are those of the latest words alone."""
    incidents, successes, plain_incidents, plain_successes = (
        IncidentBook(),
        SuccessBook(),
        IncidentBook(),
        SuccessBook(),
    )
    latest = fed(incidents, ops)
    fed(successes, ops)
    for op in ops:
        if latest.later(op.op_id) is None:
            plain_incidents.consume(op)
            plain_successes.consume(op)
    assert counted(incidents) == counted(plain_incidents)
    assert {(row.endpoint, row.successes, row.duration_sum_ms) for row in successes.endpoints()} == {
        (row.endpoint, row.successes, row.duration_sum_ms) for row in plain_successes.endpoints()
    }
    assert incidents.not_counted == successes.not_counted == 0


def counted(book: IncidentBook) -> dict[str, Any]:
    """What each incident counts, and what sets its failures apart."""
    return {
        each.fingerprint: (each.count, each.by_source, each.by_role, each.by_city, each.by_staffer, book.common(each))
        for each in book.incidents()
    }
