"""Agents and a gateway that hang up, pipeline and send odd pieces: who stays is answered, and nothing is kept."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Any

import uvloop

from tests.proxied import (
    OK,
    Message,
    answer,
    connected,
    exchange,
    proxied,
    proxy_port,
    raw_gateway,
    read_message,
    request,
)

_AGENTS = 30  # that a request never ends is met with a time-out, which many wait for at once
_ROUNDS = 10


async def _agent(port: int, dice: random.Random) -> int:
    """One agent's life: how many whole answers it got. Each of them is the one to its own request."""
    answers = 0
    for _ in range(_ROUNDS):
        with contextlib.suppress(ConnectionError):
            async with connected(port) as (reader, writer):
                names = [f"/{dice.random()}" for _ in range(dice.randint(1, 5))]
                sent = b"".join(request("POST", name, body=b"b" * dice.choice([0, 10, 100_000])) for name in names)
                sent = sent[: len(sent) - dice.choice([0, 0, 1])]  # the last one may never be whole
                for at in range(0, len(sent), step := dice.choice([7919, 65536, 10**7])):
                    writer.write(sent[at : at + step])
                    await writer.drain()
                if dice.random() < 0.3:
                    continue
                writer.write_eof() if dice.random() < 0.1 else None
                for name in names:
                    message = await asyncio.wait_for(read_message(reader, response=True), 30)
                    if message is None or not message.whole or not message.first.startswith("HTTP/1.1 200"):
                        break
                    assert message.body.startswith(name.encode())
                    answers += 1
    return answers


async def _chaos(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))

    async def gateway_answer(asked: Message, writer: asyncio.StreamWriter) -> bool:
        body = asked.first.split(" ")[1].encode() + b" " + b"x" * dice.choice([1, 1000, 300_000])
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        fate = dice.random()
        if fate < 0.05:
            return False
        if fate < 0.1:
            writer.write(head + body[: len(body) // 2])
            return False
        writer.write(head + body)
        return fate < 0.9

    waits = {"OBSERVER_PROXY_IDLE_TIMEOUT": "1", "OBSERVER_BODY_TIMEOUT": "1"}
    async with raw_gateway() as gateway, proxied(tmp_path, gateway.url, **waits) as running:
        gateway.answering = gateway_answer
        port = proxy_port(running)
        lives = [_agent(port, random.Random(seed * 1000 + number)) for number in range(_AGENTS)]
        answers = await asyncio.gather(*lives)
        assert sum(answers) > _AGENTS
        gateway.answering = answer(OK)  # the dice may still be thrown for calls that agents have left
        assert (await exchange(port, request("GET", "/after"))).body == b"{}"
        proxy = running.proxy
        assert proxy is not None
        await proxy.stop()
        assert (len(proxy.agents.connections), proxy.upstream_connections) == (0, 0)
        assert (proxy.recorder.budget.used, proxy.recorder.lost, proxy.recorder.unread) == (0, 0, 0)
    assert faults == []


def test_chaos_leaves_nothing_behind(tmp_path: Path) -> None:
    """No answer goes to another's request, no fault of ours, no connection and no byte is kept; over both loops."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_chaos(tmp_path / "uvloop", 1))
    with asyncio.Runner() as runner:
        runner.run(_chaos(tmp_path / "asyncio", 2))
