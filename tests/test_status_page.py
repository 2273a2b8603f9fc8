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

_UNFOLDED = """
class Element {
  constructor(name) { this.name = name; this.inside = []; this.dataset = {}; this.style = {}; this.heard = {}; }
  append(...more) { this.inside.push(...more); }
  replaceChildren(...all) { this.inside = all; }
  addEventListener(name, run) { this.heard[name] = run; }
  get text() { return this.inside.map((each) => each.text ?? each).join(" "); }
  all(name) {
    const below = this.inside.filter((each) => each instanceof Element);
    return below.flatMap((each) => [...(each.name === name ? [each] : []), ...each.all(name)]);
  }
}
const places = {}, asked = [];
const incident = {
  fingerprint: "v2-1", endpoint: "/book", message: "no seat", state: "new", count: 3,
  last_seen: "2026-01-01T10:00:00.000Z",
};
const finding = {cause: "<b>full</b>", adjustment: "go later", avoid: "", when: "always", by: "statistics"};
const answers = {
  "/stats": {}, "/playbooks?limit=200": {playbooks: []}, "/incidents?limit=20": {incidents: [incident]},
  "/ops?limit=15": {ops: []}, "/incidents/v2-1": {...incident, finding, samples: ["order 4711: no seat"]},
};
const page = {
  document: {
    hidden: false,
    getElementById: (id) => places[id] ??= new Element(id),
    createElement: (name) => new Element(name),
    querySelectorAll: () => [],
    addEventListener() {},
  },
  sessionStorage: {getItem: () => null},
  fetch: async (path) => { asked.push(path); return {ok: true, json: async () => answers[path]}; },
  setTimeout: () => 0,
  clearTimeout() {},
};
const settled = () => new Promise((done) => setImmediate(done));  // all else here is promises
(async () => {
  require("vm").runInNewContext(SCRIPT, page);
  await settled();
  const [row] = places.incidents.all("details"), folded = places.incidents.text;
  row.open = true;
  row.heard.toggle();
  await settled();
  const unfolded = places.incidents.text;
  console.log(JSON.stringify({folded, unfolded, asked: asked.filter((path) => path.endsWith("v2-1"))}));
})();
"""


_SHOWN = (
    _UNFOLDED[: _UNFOLDED.index("const settled")]
    + """
const arm = (tasks, successes) => ({tasks, successes, reported: 0});
const entry = (text, state, low, more) => ({
  playbook_id: text, text, state, endpoint: "/book", author: "rule", version: 1,
  measured: {shown: arm(9, 8), withheld: arm(9, 1), effect: low === null ? null : low + 0.1, low, high: low + 0.2},
  ...more,
});
answers["/stats"] = {
  operations_in_all: 10238, total: 2000, failures: 645, advice: {measured: {shown: arm(4, 4), withheld: arm(0, 0)}},
};
answers["/playbooks?limit=200"] = {playbooks: [
  entry("gone", "retired", 0.8), entry("tried", "candidate", 0.6), entry("unknown", "candidate", null),
  entry("weak", "active", 0.1), entry("strong", "active", 0.4, {version: 3}),
  entry("fresh", "active", null, {version: 2}), entry("pattern", "candidate", null, {version: 2, measured: null}),
]};
require("vm").runInNewContext(SCRIPT, page);
setImmediate(() => console.log(JSON.stringify({cards: places.cards.text, entries: places.entries.text})));
"""
)


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
        async with httpx.AsyncClient(base_url=url, timeout=30) as stranger:
            assert (await stranger.get("/")).status_code == 200
            for path in ("/stats", "/playbooks?limit=200", "/incidents?limit=20", "/ops?limit=15"):
                assert (await stranger.get(path)).status_code == 401
            assert (await stranger.get("/", headers={"Host": "elsewhere.example"})).status_code == 421


async def test_who_comes_back_to_the_page_often_asks_no_more_often() -> None:
    """However often it is hidden and shown, one look follows the other."""
    assert await _said(_LOOKED_AT) == "1"


async def test_an_incident_unfolds_its_diagnosis() -> None:
    """What is read at its own address appears under it, as text; folded it is not asked for."""
    said = json.loads(await _said(_UNFOLDED))
    assert "full" not in said["folded"]
    for part in ("<b>full</b> (by statistics)", "go later", "order 4711: no seat", "observer incidents resolve v2-1"):
        assert part in said["unfolded"]
    assert said["asked"] == ["/incidents/v2-1"]


async def test_cards_and_entries_say_what_their_figures_are_of() -> None:
    """Failures are of the operations in memory; entries that are active come first, each by its lower bound."""
    said = json.loads(await _said(_SHOWN))
    for part in ("645 of the last 2,000 (32 %)", "4 shown, none withheld yet"):
        assert part in said["cards"]
    names = re.findall(r"/book: (\w+)", said["entries"])
    assert names == ["strong", "weak", "fresh", "tried", "unknown", "pattern", "gone"]
    assert re.search(r"strong +active +v3 ", said["entries"])
    assert re.search(r"fresh +active +v2, being measured", said["entries"])
    assert said["entries"].count("being measured") == 1


async def _said(program: str) -> str:
    """What *program* prints, once it has run the page's script."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node to run the page's script")
    (script,) = re.findall("<script>(.*?)</script>", PAGE.read_text(), re.DOTALL)
    whole = program.replace("SCRIPT", json.dumps(script))
    process = await asyncio.create_subprocess_exec(node, "-e", whole, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    return said.decode().strip()
