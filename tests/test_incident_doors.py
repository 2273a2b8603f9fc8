"""`/incidents` over HTTP and gRPC: by state, in full, and with a person's hand, which a replay remembers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from sidecar import cli
from sidecar.pb.v1 import observer_pb2 as pb
from sidecar.pb.v1.observer_pb2_grpc import ObserverServiceStub
from sidecar.pipeline.observer import Observer
from sidecar.store.checkpoint_copy import dumped
from tests.observers import client, cycle, journal, observer


async def post(door: httpx.AsyncClient, *errors: str, **fields: Any) -> None:
    events = [{"endpoint": "/fill", "success": False, "error": error, **fields} for error in errors]
    assert (await door.post("/events", json=events)).json()["accepted"] == len(errors)


async def listed(door: httpx.AsyncClient, query: str = "") -> dict[str, dict[str, Any]]:
    answer = await door.get(f"/incidents{query}")
    return {each["message"]: each for each in answer.json()["incidents"]}


async def test_an_incident_in_full_has_counts_timeline_history_and_traces(tmp_path: Path) -> None:
    """By source, role, city, staffer and sig_hash; the evidence's traces; the diagnosis with version and evidence."""
    async with observer(tmp_path) as running, client(running) as door:
        await post(door, "no seat", "no seat", role="cook", city="Reno", staffer_id="s1", sig_hash="h1", source="otlp")
        await cycle(running)
        key = (await listed(door))["no seat"]["fingerprint"]
        full = (await door.get(f"/incidents/{key}")).json()
        assert (full["state"], full["kind"], full["count"]) == ("new", "failure", 2)
        counted = [full[name] for name in ("by_source", "by_role", "by_city", "by_staffer", "by_sig_hash")]
        assert counted == [{"otlp": 2}, {"cook": 2}, {"Reno": 2}, {"s1": 2}, {"h1": 2}]
        ops = (await door.get("/ops")).json()["ops"]
        assert set(full["trace_ids"]) == {op["trace_id"] for op in ops}
        assert [(each["width_s"], sum(each["counts"])) for each in full["timeline"]] == [(60, 2), (3600, 2), (86400, 2)]
        assert [(step["state"], step["by"]) for step in full["history"]] == [("new", "observer")]
        assert (full["diagnosis_version"], full["diagnosed_by"], full["diagnosis_id"][:3]) == (1, "statistics", "dg-")
        gone = await door.get("/incidents/unknown")
        assert (gone.status_code, "not known" in gone.json()["error"]) == (404, True)


async def test_people_resolve_ignore_and_reopen(tmp_path: Path) -> None:
    """Each is in the journal before it is answered; lists, counts and metrics follow."""
    async with observer(tmp_path, OBSERVER_GRPC_PORT="0") as running, client(running) as door:
        await post(door, "no seat", "city closed", "card password=hunter2 refused")
        await cycle(running)
        keys = {message: each["fingerprint"] for message, each in (await listed(door)).items()}
        resolved = await door.post(
            f"/incidents/{keys['no seat']}/resolve", json={"by": "ann", "note": "token=s3cr3t-x"}
        )
        assert (resolved.status_code, resolved.json()["state"], resolved.json()["decided_by"]) == (
            200,
            "resolved",
            "ann",
        )
        assert "s3cr3t" not in (tmp_path / "data" / "decisions.jsonl").read_text()
        assert (await door.post(f"/incidents/{keys['city closed']}/ignore")).json()["decided_by"] == "someone"
        assert journal(tmp_path, "decisions.jsonl")[-1]["body"]["changes"][0]["state"] == "ignored"
        assert set(await listed(door, "?state=resolved,ignored")) == {"no seat", "city closed"}
        assert len(await listed(door, "?state=new&limit=5")) == 1
        stats = (await door.get("/stats")).json()
        assert stats["incidents_by_state"] == {"resolved": 1, "ignored": 1, "new": 1}
        assert running.otlp.grpc is not None
        async with grpc.aio.insecure_channel(f"127.0.0.1:{running.otlp.grpc.port}") as channel:
            stub = ObserverServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            found = await stub.ListIncidents(pb.ListIncidentsRequest(states=["resolved"]))
            assert [(each.state, each.decided_by) for each in found.incidents] == [("resolved", "ann")]
            with pytest.raises(grpc.aio.AioRpcError, match=r"is not a state: .*escalating, resolved"):
                await stub.ListIncidents(pb.ListIncidentsRequest(states=["open"]))
        reopened = await door.post(f"/incidents/{keys['city closed']}/reopen", json={"why": "by another name"})
        assert (reopened.json()["state"], reopened.json()["note"]) == ("ongoing", "by another name")
        await post(door, "no seat")
        assert set(await listed(door, "?state=regressed")) == {"no seat"}


async def test_wrong_requests_are_refused_and_change_nothing(tmp_path: Path) -> None:
    """With the status and words that every door uses; without the scope nobody decides."""
    tokens = tmp_path / "tokens"
    tokens.write_text("all admin,read,ingest\nlook read\n")
    async with observer(tmp_path, OBSERVER_TOKEN_FILE=str(tokens)) as running, client(running) as door:
        admin, reader = {"Authorization": "Bearer all"}, {"Authorization": "Bearer look"}
        door.headers.update(admin)
        await post(door, "no seat")
        path = f"/incidents/{(await listed(door))['no seat']['fingerprint']}/resolve"
        for content, status in (
            (b"{", 400),
            (b"\xff", 400),
            (b"[]", 422),
            (b'{"by":5}', 422),
            (b'{"who":"ann"}', 422),
            (b'{"by":"observer"}', 422),
            (b'{"version":1}', 422),
            (b'{"note":"%s"}' % (b"x" * 1001), 422),
            (b'{"note":"%s"}' % (b"x" * 20_000), 413),
        ):
            answer = await door.post(path, content=content)
            assert (answer.status_code, bool(answer.json()["error"])) == (status, True), content[:20]
        assert (await door.post("/incidents/unknown/resolve")).status_code == 404
        assert (await door.post(path, headers=reader)).status_code == 403
        assert (await door.get("/incidents?state=open")).status_code == 422
        assert (await listed(door))["no seat"]["state"] == "new"


async def lives(tmp_path: Path, running: Observer) -> None:
    """Names that become one template, people's decisions on some of them before and after, repeated and late events."""
    async with client(running) as door:
        for round_, names in enumerate((("Ann", "Bob"), ("Cy",), ("Dee", "Eve"), ("Ann", "Flo"))):
            await post(door, *(f"worker {name} is not certified" for name in names), f"no seat on HAT{round_:03}")
            await cycle(running)
            some = (await door.get("/incidents")).json()["incidents"]
            action = ("ignore", "resolve", "reopen", "resolve")[round_]
            for each in some[:2]:
                hand = await door.post(f"/incidents/{each['fingerprint']}/{action}", json={"note": f"round {round_}"})
                assert hand.status_code == 200


async def test_a_replay_remembers_what_people_decided_and_what_became_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Byte for byte, over a restart; the fingerprints of old lead to the incident that has their failures now."""
    for _ in range(2):
        async with observer(tmp_path) as running:
            await lives(tmp_path, running)
    async with observer(tmp_path) as running, client(running) as door:
        (one,) = [each for each in (await listed(door)).values() if "certified" in each["message"]]
        assert (one["message"], one["count"], len(one["aliases"])) == ("worker <word> is not certified", 14, 2)
        assert (await door.get(f"/incidents/{one['aliases'][0]}")).json()["fingerprint"] == one["fingerprint"]
        assert one["diagnosed_count"] >= 4
    before = dumped(tmp_path / "data" / "state.db")
    assert any(key.startswith("template/") for key in json.loads(before)["incidents"])
    dump = tmp_path / "dump.json"
    command = ["replay", "--data-dir", str(tmp_path / "data"), "--dump", str(dump)]
    assert await asyncio.to_thread(cli.main, command) == 0
    capsys.readouterr()
    assert dump.read_bytes() == before
