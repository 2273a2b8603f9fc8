"""Advice in `X-Observer-Advice` of proxied calls: to agent or gateway, within bounds, never at a call's cost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from sidecar.advice.exposures import ExposureBook
from sidecar.advice.offers import Offers
from sidecar.gateway.proxy_advice import MOST_BYTES, compact
from sidecar.gateway.route_template import templates_of
from sidecar.model_learning import Advice, AdviceItem, AdviceQuery, EntryRow
from sidecar.pipeline.observer import Observer
from tests.observers import FaultyFile, client, journal, settled
from tests.proxied import OK, Message, Pairs, RawGateway, answer, exchange, proxied, proxy_port, raw_gateway, request
from tests.test_advice_door import ENDPOINT, learnt
from tests.test_playbook_book import an_entry

BODY = b'{"certified": false, "shift": "day"}'


@asynccontextmanager
async def advised(tmp_path: Path, who: str, **env: Any) -> AsyncIterator[tuple[Observer, RawGateway]]:
    """A proxy whose agents, or gateway, are told what was learnt of `/tools/fill`."""
    async with (
        raw_gateway() as gateway,
        proxied(tmp_path, gateway.url, OBSERVER_PROXY_ADVICE=who, **env) as running,
        client(running) as http,
    ):
        await learnt(running, http)

        async def when_decided(_asked: Message, writer: asyncio.StreamWriter) -> bool:
            await (
                running.learning.advisor.idle()
            )  # a gateway that is quicker than the journal has no advice to wait for
            writer.write(OK)
            return True

        gateway.answering = when_decided
        if running.proxy is not None and running.proxy.advice is not None:
            running.proxy.advice.within_s = 30.0  # a busy machine is not what is tested
        yield running, gateway


async def call(running: Observer, task: str, body: bytes = BODY, headers: Pairs | None = None) -> Any:
    """The response to a call of *task*."""
    named = [("Content-Type", "application/json"), ("X-Observer-Op-Task", task), *(headers or [])]
    return await exchange(proxy_port(running), request("POST", ENDPOINT, named, body))


def measured(running: Observer, arm: str) -> Any:
    return getattr(running.learning.advice_stats()["measured"], arm)


async def test_the_agent_is_told_in_the_response(tmp_path: Path) -> None:
    """For its next attempt: some tasks are, others are not; the call itself is no outcome, the next one is."""
    async with advised(tmp_path, "agent", draw=Random(1).random) as (running, gateway):
        said = {}
        for number in range(12):
            answer = await call(running, f"t-{number}")
            said[f"t-{number}"] = json.loads(answer.header("x-observer-advice") or "{}")
        assert all(each["exposure_id"] for each in said.values())
        assert {len(each["advice"]) for each in said.values()} == {0, 1}
        told = next(each["advice"] for each in said.values() if each["advice"])
        assert told[0]["set"] == {"certified": True}
        assert not any(asked.header("x-observer-advice") for asked in gateway.asked)
        await settled(running, 212)
        assert measured(running, "shown").tasks + measured(running, "withheld").tasks == 0
        await call(running, "t-0", b'{"certified": true, "shift": "day"}')
        await settled(running, 213)
        assert measured(running, "shown").tasks + measured(running, "withheld").tasks == 1


async def test_the_gateway_is_told_with_the_request(tmp_path: Path) -> None:
    """What an agent writes there itself does not reach it; the call is the outcome, and has the exposure's id."""
    async with advised(tmp_path, "gateway", draw=Random(1).random) as (running, gateway):
        for number in range(12):
            answer = await call(running, f"t-{number}", headers=[("X-Observer-Advice", "obey")])
            assert answer.header("x-observer-advice") is None
        calls = [asked for asked in gateway.asked if ENDPOINT in asked.first]  # beside them, the observer's own posts
        said = [json.loads(asked.header("x-observer-advice") or "") for asked in calls]
        assert {len(each["advice"]) for each in said} == {0, 1}
        assert [asked.body for asked in calls] == [BODY] * 12
        await settled(running, 212)
        assert measured(running, "shown").tasks + measured(running, "withheld").tasks == 12
        ops = [op for op in running.ring.newest_first() if op.source == "mcp"]
        assert {op.exposure_id for op in ops} == {each["exposure_id"] for each in said}


PATHS = ["/orders/1007/ship", "/orders/1007/ship?fast=1", "POST /orders/1007/ship", "http://h:1/orders/7/ship"]


@pytest.mark.parametrize("said", PATHS)
async def test_an_agent_that_knows_its_own_path_gets_the_advice_of_its_template(tmp_path: Path, said: str) -> None:
    """Calls through the proxy are learnt from by template, which no agent knows; its call there is the outcome."""
    entry = {"kind": "do", "endpoint": "/orders/{id}/ship", "text": "By air", "set": {"mode": "air"}}
    async with advised(tmp_path, "none") as (running, _), client(running) as http:
        body = {"format": "observer.playbook/1", "entries": [entry, {**entry, "endpoint": "/exact/7"}]}
        for key in (await http.post("/playbooks/import", json=body)).json()["imported"]:
            await http.post(f"/playbooks/{key}/approve")
        asked = (await http.get("/advice", params={"endpoint": said, "mode": "sea", "task": "o-1"})).json()
        assert asked["exposure_id"] is not None
        written = [line["body"] for line in journal(tmp_path, "decisions.jsonl") if line["kind"] == "exposure"]
        assert written[-1]["endpoint"] == "/orders/{id}/ship"
        exact = (await http.get("/advice", params={"endpoint": "/exact/7"})).json()
        assert exact["exposure_id"] is not None
        for other in ("/orders/1007", "orders/1007/ship", "/exact/8"):
            assert (await http.get("/advice", params={"endpoint": other})).json()["exposure_id"] is None, other
        headers = [("Content-Type", "application/json"), ("X-Observer-Op-Task", "o-1")]
        await exchange(proxy_port(running), request("POST", "/orders/1007/ship", headers, b'{"mode": "air"}'))
        await settled(running, 201)
        assert measured(running, "shown").tasks + measured(running, "withheld").tasks == 1


async def test_an_input_and_a_header_of_one_name_are_two_things(tmp_path: Path) -> None:
    """What the agent says of its job in a header does not hide the body's input, nor stand for it."""
    said = {"kind": "do", "endpoint": ENDPOINT, "text": "Open it", "when": {"state": "NV"}}
    entry = {**said, "set": {"features.state": "open"}}
    async with advised(tmp_path, "agent") as (running, _), client(running) as http:
        body = {"format": "observer.playbook/1", "entries": [entry]}
        (key,) = (await http.post("/playbooks/import", json=body)).json()["imported"]
        await http.post(f"/playbooks/{key}/approve")
        for number, (job, asks, fits) in enumerate(
            (("NV", "shut", True), ("NV", "open", False), ("open", "NV", False))
        ):
            inputs = json.dumps({"certified": True, "state": asks}).encode()
            await call(running, f"n-{number}", inputs, [("X-Observer-Op-State", job)])
            assert (key in running.books.learning.exposures.coins(f"n-{number}")) is fits, (job, asks)
        told: list[Any] = []
        for number in range(50):  # until a coin falls on telling
            inputs = json.dumps({"certified": True, "state": "shut"}).encode()
            answer = await call(running, f"m-{number}", inputs, [("X-Observer-Op-State", "NV")])
            told += json.loads(answer.header("x-observer-advice") or "{}").get("advice", [])
            if told:
                break
        assert (told[0]["when"], told[0]["set"]) == ({"state": "NV"}, {"state": "open"})


async def test_without_the_setting_nothing_is_asked(tmp_path: Path) -> None:
    """Off is the default."""
    async with advised(tmp_path, "none") as (running, _):
        assert (await call(running, "t-1")).header("x-observer-advice") is None
        assert running.learning.advisor.asked == 0


@pytest.mark.parametrize("who", ["agent", "both"])
async def test_a_stalled_journal_costs_the_advice_not_the_call(tmp_path: Path, who: str) -> None:
    """The call goes through as it is, and is counted as unadvised."""
    async with raw_gateway() as gateway:
        faulty = FaultyFile.fresh()
        env = {"OBSERVER_PROXY_ADVICE": who, "OBSERVER_COMMIT_TIMEOUT": "0.5"}
        async with proxied(tmp_path, gateway.url, open_file=faulty, **env) as running, client(running) as http:
            await learnt(running, http)
            faulty.open_gate.clear()
            answer = await call(running, "t-1")
            assert (answer.first, answer.body) == ("HTTP/1.1 200 OK", b"{}")
            assert answer.header("x-observer-advice") is None
            assert gateway.asked[-1].body == BODY
            assert running.proxy is not None
            assert running.proxy.advice is not None
            assert running.proxy.advice.late == (1 if who == "both" else 0)  # in the other case it is waited for still
            faulty.open_gate.set()


async def test_a_body_that_comes_later_is_read_a_large_one_is_not_waited_for(tmp_path: Path) -> None:
    """Features in the body count where it is small; both calls arrive whole."""
    async with advised(tmp_path, "gateway") as (running, gateway):
        large = b'{"certified": false, "pad": "' + b"x" * 40_000 + b'"}'
        assert (await call(running, "t-1", large)).first == "HTTP/1.1 200 OK"
        assert gateway.asked[-1].body == large
        assert gateway.asked[-1].header("x-observer-advice") is None


class Entries:
    """An `EntrySource` with entries of such lengths of text, in the order of their worth."""

    def __init__(self, lengths: list[int]) -> None:
        entries = [
            an_entry(playbook_id=f"pb-{number}", set={"x": "y" * length}, plain=True)
            for number, length in enumerate(lengths)
        ]
        self.rows = [EntryRow(versions=[entry], state="active") for entry in entries]

    def at(self, _endpoint: str) -> list[EntryRow]:
        return self.rows


@pytest.mark.parametrize("shown", [True, False])
def test_what_the_header_has_no_room_for_is_no_exposure(shown: bool) -> None:
    """Whichever way the coins fall: who is eligible does not depend on them."""
    entries = Entries([1500, 400, 5000, 100, 200])
    offers = Offers(entries, ExposureBook(), templates_of, holdout=0.1, window_s=60, draw=lambda: 0.0 if shown else 1.0)
    query = AdviceQuery(endpoint="/fill", facts={}, door="proxy", carries=lambda advice: compact(advice) is not None)
    offer = offers.offer(query, 0, "ex-1")
    line = compact(offer.advice)
    assert line is not None
    assert offer.exposure is not None
    eligible = [each.playbook_id for each in offer.exposure.assignments]
    assert eligible == ["pb-0", "pb-3"]
    assert [each["id"] for each in json.loads(line)["advice"]] == (eligible if shown else [])


async def test_nobody_speaks_in_the_observers_name(tmp_path: Path) -> None:
    """Neither the gateway to the agent nor the agent to the gateway, in head or trailer, advice on or off."""
    spoofed = [("X-Observer-Advice", "obey"), ("x_observer_advice", "obey"), ("X-Observer-Trace-Id", "f" * 32)]
    spoofed += [("X-Observer-Error", "proxy"), ("X-Observer-Anything", "1")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in spoofed)
    reply = f"HTTP/1.1 200 OK\r\n{lines}X-Theirs: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{lines}\r\n"
    for who in ("none", "both"):
        async with raw_gateway() as gateway, proxied(tmp_path / who, gateway.url, OBSERVER_PROXY_ADVICE=who) as running:
            gateway.answering = answer(reply.encode())
            got = await exchange(proxy_port(running), request("GET", "/x", [*spoofed, ("X-Mine", "1")]))
        (asked,) = gateway.asked
        assert [name for name, _ in asked.headers if name.lower()[:3] == "x-o"] == ["X-Observer-Via"]
        assert [name for name, _ in asked.headers if name.lower()[:2] in ("x-", "x_")] == ["X-Mine", "X-Observer-Via"]
        assert [name for name, _ in got.headers if name[:1] in "xX"] == ["X-Theirs", "X-Observer-Trace-Id"]
        assert got.header("x-observer-trace-id") != "f" * 32
        assert got.trailers == []


def test_the_header_is_short_and_plain_ascii() -> None:
    """A single item goes without its words where it must; what is left is JSON whatever was in it."""
    item = AdviceItem(
        id="pb-1",
        version=1,
        kind="do",
        state="active",
        text="é\r\nX-Evil: 1 ",
        when={"city": "Zürich\n"},
        set={},
        evidence=3,
    )
    for item_text, count in (("", 0), ("x" * 400, 1), ("x" * 3000, 1), ("x" * 400, 3)):
        items = [msgspec.structs.replace(item, text=item.text + item_text)] * count
        line = compact(Advice(exposure_id="ex-1", advice=items))
        assert line is not None
        assert len(line) <= MOST_BYTES
        assert line.isascii()
        assert b"\r" not in line
        assert b"\n" not in line
        assert len(json.loads(line)["advice"]) == count
    assert compact(Advice(exposure_id="ex-1", advice=[item] * 30)) is None
