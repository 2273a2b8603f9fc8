"""The status page: there without a token, its data only with one; nothing from elsewhere, nothing unescaped."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import httpx

from tests.observers import client, observer

PAGE = Path(__file__).resolve().parents[1] / "sidecar" / "web" / "status.html"


async def test_the_page_is_served_with_a_policy_that_names_its_own_script(tmp_path: Path) -> None:
    """The hashes in the header are those of what stands on the page; everything else is forbidden."""
    async with observer(tmp_path) as running, client(running) as http:
        answer = await http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'")
    for element in ("script", "style"):
        (inside,) = re.findall(f"<{element}>(.*?)</{element}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy


def test_the_page_loads_nothing_from_elsewhere_and_makes_no_markup_of_data() -> None:
    """No address of another host, no inline handler, none of the ways by which text becomes markup."""
    text = PAGE.read_text()
    assert not re.search(r"https?://|//[a-z]+\.|<link|<img|@import|url\(", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son[a-z]+=", text)


async def test_the_page_needs_no_token_and_its_data_does(tmp_path: Path) -> None:
    """Whoever may not read gets an empty page; a foreign Host gets nothing."""
    async with observer(tmp_path, OBSERVER_TOKEN="secret") as running:
        url = f"http://127.0.0.1:{running.port}"
        async with httpx.AsyncClient(base_url=url) as stranger:
            assert (await stranger.get("/")).status_code == 200
            for path in ("/stats", "/playbooks?limit=200", "/incidents?limit=20", "/ops?limit=15"):
                assert (await stranger.get(path)).status_code == 401
            assert (await stranger.get("/", headers={"Host": "elsewhere.example"})).status_code == 421
