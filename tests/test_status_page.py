"""The status page: there without a token, its data only with one; nothing from elsewhere, nothing unescaped."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import httpx
import pytest

from tests.observers import client, observer

PAGE = Path(__file__).resolve().parents[1] / "sidecar" / "web" / "status.html"
_LOOKED_AT = """
const timers = new Set(), heard = {};
const element = {replaceChildren() {}, addEventListener() {}};
const document = {
  hidden: false,
  getElementById: () => element,
  addEventListener: (name, run) => { heard[name] = run; },
};
const page = {
  document,
  sessionStorage: {getItem: () => null},
  fetch: async () => { throw new Error("away"); },
  setTimeout: (run) => { const timer = {run}; timers.add(timer); return timer; },
  clearTimeout: (timer) => timers.delete(timer),
};
require("vm").runInNewContext(SCRIPT, page);
for (let times = 0; times < 5; times++) {
  for (const hidden of [true, false]) { document.hidden = hidden; heard.visibilitychange(); }
}
setImmediate(() => console.log(timers.size));
"""


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


async def test_who_comes_back_to_the_page_often_asks_no_more_often() -> None:
    """However often it is hidden and shown, one look follows the other."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node to run the page's script")
    (script,) = re.findall("<script>(.*?)</script>", PAGE.read_text(), re.DOTALL)
    program = _LOOKED_AT.replace("SCRIPT", json.dumps(script))
    process = await asyncio.create_subprocess_exec(node, "-e", program, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said.decode().strip() == "1"
