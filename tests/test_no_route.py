"""Requests that no resource answers: unknown paths and wrong methods."""

from __future__ import annotations

from pathlib import Path

from tests.observers import client, observer


async def test_an_unknown_path_and_a_wrong_method_say_what_to_use(tmp_path: Path) -> None:
    """What the request said is repeated in part and escaped; a port with few paths names them."""
    async with observer(tmp_path) as running, client(running) as door:
        unknown = await door.get("/evnt")
        assert unknown.json() == {"error": "no such path: '/evnt'; see /openapi.json"}
        wrong = await door.get("/event")
        assert wrong.json() == {"error": "'/event' does not take GET: use POST"}
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST, OPTIONS")
        long = (await door.get("/%1b[31m" + "x" * 900)).json()["error"]
        assert (long.isprintable(), len(long) < 150) == (True, True)
        assert (
            "this port has /health, "
            in (await door.get(f"http://127.0.0.1:{running.health_port}/stats")).json()["error"]
        )
