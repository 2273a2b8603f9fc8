"""What the commands read from an observer: lists of any length, at addresses of any form."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sidecar.commands.addresses import place
from sidecar.commands.observer_client import AskError, AwayError, ObserverClient
from tests.observers import StandIn, says, stand_in


def a_page(number: int, last: int) -> dict[str, Any]:
    more = {"next_cursor": str(number)} if number < last else {}
    return {"ops": [{"n": number}], **more}


async def listed(observer: StandIn) -> list[int]:
    """What is read of its list `/ops`, in a thread as commands do."""
    with ObserverClient(observer.url, "") as client:
        items = await asyncio.to_thread(client.listed, "/ops", "ops", dict[str, int], {"limit": "1"})
    return [item["n"] for item in items]


async def test_a_list_is_read_to_its_end() -> None:
    """However many pages it has."""
    async with stand_in() as observer:
        observer.answers["/ops?limit=1"] = says(a_page(0, 30))
        for number in range(30):
            observer.answers[f"/ops?limit=1&cursor={number}"] = says(a_page(number + 1, 30))
        assert await listed(observer) == list(range(31))


async def test_a_list_that_changes_meanwhile_is_read_again() -> None:
    """The item went behind which a page was to begin; where that goes on, the command says so and gives up."""
    async with stand_in() as observer:
        answers = [says(a_page(0, 1)), says({"error": "no such cursor"}, 404), says(a_page(7, 8)), says(a_page(8, 8))]
        for path in ("/ops?limit=1", "/ops?limit=1&cursor=0", "/ops?limit=1&cursor=7"):
            observer.answers[path] = lambda _asked: answers.pop(0)
        assert await listed(observer) == [7, 8]
        observer.answers["/ops?limit=1"] = says(a_page(0, 1))
        observer.answers["/ops?limit=1&cursor=0"] = says({"error": "no such cursor"}, 404)
        with pytest.raises(AwayError, match="changes too fast"):
            await listed(observer)


@pytest.mark.parametrize(("page", "why"), [(a_page(0, 1), "cycle"), ({"others": []}, "has no 'ops'")])
async def test_what_is_no_list_of_ours_ends_the_reading(page: dict[str, Any], why: str) -> None:
    """Pages without an end, or of something else."""
    async with stand_in() as observer:
        for path in ("/ops?limit=1", "/ops?limit=1&cursor=0"):
            observer.answers[path] = says(page)
        with pytest.raises(AskError, match=why):
            await listed(observer)


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("", "127.0.0.1:3800"),
        ("0.0.0.0", "127.0.0.1:3800"),
        ("::", "[::1]:3800"),
        ("[::]", "[::1]:3800"),
        ("::1", "[::1]:3800"),
        ("[fd00::7]", "[fd00::7]:3800"),
        (" 10.0.0.7 ", "10.0.0.7:3800"),
        ("gateway.local", "gateway.local:3800"),
    ],
)
def test_a_listener_is_reached_at(host: str, reached: str) -> None:
    """On loopback where it listens everywhere; IPv6 in brackets, once."""
    assert place(host, 3800) == reached
