"""`observer playbook`: seen, decided, exported and imported, against a running observer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sidecar import cli
from sidecar.analysis.playbook_consolidator import DECISION_KIND as PLAYBOOK
from sidecar.model_learning import NO_PATTERN, EntryChange, PlaybookEntry
from sidecar.pipeline.learning import PLAYBOOK_CHANGE
from sidecar.store.checkpoint_copy import dumped
from tests.observers import client, journal, observer
from tests.test_advice_door import ENDPOINT, learnt
from tests.test_replay import in_thread, replay


async def run(running: Any, *arguments: str) -> int:
    """The exit status of `observer playbook` with *arguments*."""
    url = ["--url", f"http://127.0.0.1:{running.port}"]
    return await asyncio.to_thread(cli.main, ["playbook", *arguments, *url])


async def test_a_person_sees_and_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line an entry; one in full; approval with a reason, which the history then tells."""
    async with observer(tmp_path) as running, client(running) as http:
        (entry,) = await learnt(running, http)
        name = entry["playbook_id"]
        assert await run(running, "list") == 0
        (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith(name)]
        assert line.split()[1:4] == ["candidate", entry["kind"], "1"]
        assert await run(running, "approve", name, "--why", "I looked", "--by", "ann") == 0
        assert capsys.readouterr().out == f"{name} approved: active now\n  v1: {entry['text']}\n"
        assert await run(running, "show", name) == 0
        told = capsys.readouterr().out
        assert f"{name} v1 {entry['kind']}, active" in told
        assert "approve by ann: I looked" in told
        assert told.index("  v1: ") < told.index("approve by ann")
        assert await run(running, "list", "--state", "candidate") == 0
        assert name not in capsys.readouterr().out
        assert await run(running, "list", "--as-of", entry["at"], "--json") == 0
        then = {each["playbook_id"]: each["state"] for each in json.loads(capsys.readouterr().out)}
        assert then[name] == "candidate"


async def test_only_the_version_that_a_person_read_is_approved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command shows its words. One that was written since is told as such, and to no agent."""
    first = PlaybookEntry(
        playbook_id="pb-0123456789ab",
        version=1,
        at="2026-01-01T00:00:00.000Z",
        kind="do",
        endpoint="/fill",
        text="common pattern: read",
        successes=9,
        avg_duration_ms=1.0,
    )
    async with observer(tmp_path) as running, client(running) as http:
        for entry in (first, replace(first, version=2, text="common pattern: unread")):
            await running.books.in_order.decide(PLAYBOOK, entry)
        await running.books.in_order.caught_up()
        capsys.readouterr()  # what the observer logged at its start
        assert await run(running, "approve", first.playbook_id, "--version", "1") == 0
        said = capsys.readouterr().out.splitlines()
        assert said[1:] == ["  v1: common pattern: read", "  v2 is newer; this approval is not for it"]
        told = (await http.get(f"/playbooks/{first.playbook_id}")).json()["told"]
        assert (told["version"], told["text"]) == (1, first.text)
        assert await run(running, "approve", first.playbook_id) == 0
        assert capsys.readouterr().out.splitlines()[1:] == ["  v2: common pattern: unread"]


async def test_what_is_exported_is_imported_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As candidates that nobody approved there; a second import of the same says nothing new."""
    file = tmp_path / "playbook.json"
    async with observer(tmp_path / "one") as running, client(running) as http:
        (entry,) = await learnt(running, http)
        assert await run(running, "approve", entry["playbook_id"]) == 0
        assert await run(running, "export", "-o", str(file)) == 0, "JSON, as the name says"
        assert file.stat().st_mode & 0o777 == 0o600
        assert await run(running, "export") == 0
        document = capsys.readouterr().out
    assert f"## {entry['playbook_id']}: {entry['kind']}, active" in document
    assert entry["text"] in document
    async with observer(tmp_path / "two") as running, client(running) as http:
        assert await run(running, "import", str(file)) == 0
        said = capsys.readouterr().out
        assert f"observer playbook approve {entry['playbook_id']}" in said
        (there,) = [e for e in (await http.get("/playbooks")).json()["playbooks"] if e["endpoint"] == ENDPOINT]
        kept = ("playbook_id", "kind", "text", "set", "rate", "calls", "evidence", "scope")
        assert {name: there.get(name) for name in kept} == {name: entry.get(name) for name in kept}
        assert (there["state"], there["author"], there.get("plain")) == ("candidate", "import", None)
        ask = {"endpoint": ENDPOINT, "certified": "false"}
        assert (await http.get("/advice", params=ask)).json()["exposure_id"] is None
        assert await run(running, "import", str(file)) == 0
        assert capsys.readouterr().out.startswith("0 imported")
        assert await run(running, "approve", entry["playbook_id"]) == 0
        assert (await http.get("/advice", params=ask)).json()["exposure_id"] is not None


OLD = "common pattern: ? ?×? in ?, ?; ? ?×? in ?, ?; ? ?×?"


@pytest.mark.parametrize("text", [OLD, NO_PATTERN, "common pattern: POST /fill; POST /fill; POST /fill"])
async def test_an_old_entry_that_says_nothing_is_not_listed_nor_approved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """With what, why and what to do; one that was approved once is told to nobody either, and a replay agrees."""
    entry = PlaybookEntry(
        playbook_id="pb-0123456789ab",
        version=1,
        at="2026-01-01T00:00:00.000Z",
        kind="do",
        endpoint="/fill",
        text=text,
        successes=9,
        avg_duration_ms=1.0,
    )
    approval = EntryChange(playbook_id=entry.playbook_id, at=entry.at, action="approve", by="person", version=1)
    async with observer(tmp_path) as running, client(running) as http:
        await running.books.in_order.decide(PLAYBOOK, entry)
        await running.books.in_order.caught_up()
        refused = await http.post(f"/playbooks/{entry.playbook_id}/approve")
        assert refused.status_code == 409
        assert "nothing that an agent could be told: its calls said nothing" in refused.json()["error"]
        assert await run(running, "approve", entry.playbook_id) == 1
        assert "Send `input_summary` or `features`" in capsys.readouterr().err
        await running.books.in_order.decide(PLAYBOOK_CHANGE, approval)
        await running.books.in_order.caught_up()
        assert (await http.get("/advice", params={"endpoint": "/fill"})).json()["advice"] == []
        assert await run(running, "show", entry.playbook_id) == 0
        assert "told    to nobody: there is nothing in it" in capsys.readouterr().out
        assert await run(running, "list") == 0
        assert "the playbook has no entries yet" in capsys.readouterr().out
        assert await run(running, "list", "--as-of", "2026-01-02T00:00:00Z") == 0
        assert entry.playbook_id in capsys.readouterr().out
    before = dumped(tmp_path / "data" / "state.db")
    assert (await in_thread(replay, tmp_path, capsys))[0] == before


ENTRY = {"kind": "do", "endpoint": "/x", "text": "Set a", "set": {"a": 1}}


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("{", "not JSON"),
        ({"format": "other", "entries": []}, "expected 'observer.playbook/1'"),
        ({"format": "observer.playbook/1", "entries": [ENTRY, {**ENTRY, "kind": "shout"}]}, "entry 1"),
        ({"format": "observer.playbook/1", "entries": [{**ENTRY, "text": "x" * 501}]}, "entry 0"),
        ({"format": "observer.playbook/1", "entries": [{**ENTRY, "text": "a\x1b[31mb"}]}, "control characters"),
        ({"format": "observer.playbook/1", "entries": [{**ENTRY, "set": {"a": "x" * 61}}]}, "more than 60"),
        ({"format": "observer.playbook/1", "entries": [{**ENTRY, "set": {"a": {}}}]}, "no bound"),
        ({"format": "observer.playbook/1", "entries": [{**ENTRY, "set": {"a": [1]}}]}, "entry 0"),
        ({"format": "observer.playbook/1", "entries": [{**ENTRY, "sets": {}}]}, "entry 0"),
        ({"format": "observer.playbook/1", "entries": [{**ENTRY, "evidence": [["a" * 65, "b"]]}]}, "entry 0"),
        (
            {"format": "observer.playbook/1", "entries": [{**ENTRY, "scope": ["a"], "playbook_id": "pb-000000000000"}]},
            "by its content",
        ),
    ],
)
async def test_a_wrong_import_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], document: Any, why: str
) -> None:
    """The first entry that is wrong is named, and none is taken."""
    file = tmp_path / "wrong.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    async with observer(tmp_path) as running, client(running) as http:
        assert await run(running, "import", str(file)) != 0
        assert why in capsys.readouterr().err
        assert (await http.get("/playbooks")).json()["playbooks"] == []
        assert journal(tmp_path, "decisions.jsonl") == []


async def test_unknown_entries_and_files_are_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, and no success."""
    async with observer(tmp_path) as running:
        assert await run(running, "show", "pb-000000000000") == 1
        assert capsys.readouterr().err.endswith("is not known: none has this id. See GET /playbooks\n")
        assert await run(running, "import", str(tmp_path / "none.json")) == 1
        assert "cannot be read" in capsys.readouterr().err
        assert await run(running, "approve", "../x") == 64


async def test_an_export_in_markdown_is_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said so at once, as an argument that is wrong; the observer is not to blame, nor its address."""
    file = tmp_path / "playbook.json"
    async with observer(tmp_path) as running:
        assert await run(running, "export", "--format", "markdown", "-o", str(file)) == 0
        assert await run(running, "import", str(file)) == 64
    said = capsys.readouterr().err
    assert "it is an export in Markdown" in said
    assert "export --format json" in said
    assert "--url" not in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "was given no names: it takes one entry."),
        (["show", "pb-1", "pb-2"], "was given 2 names: it takes one entry."),
        (["list", "pb-1"], "was given 1 name: it takes none."),
        (["import"], "was given no names: it takes one file."),
        (["retire"], "was given no names: it takes one entry or several."),
    ],
)
def test_how_many_names_are_wanted_is_said(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    """Before any observer is asked."""
    assert cli.main(["playbook", *arguments]) == 64
    assert capsys.readouterr().err.startswith(f"observer: `observer playbook {arguments[0]}` {said}")
