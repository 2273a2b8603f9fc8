"""`observer report`: what it works out, what it prints, and a page that nothing can be smuggled into."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from rich.cells import cell_len

from sidecar.cli import main
from sidecar.commands.report import _lines
from sidecar.commands.report_charts import intervals
from sidecar.commands.report_data import Estimate, Incident, ReportData, _Buckets, avoided, by_effect, open_words, times
from sidecar.commands.report_html import html
from sidecar.measured_words import effect_words
from sidecar.model_learning import ArmResult, Measured, PlaybookView
from tests.observers import client, observer
from tests.test_advice_door import ENDPOINT, calls, learnt

NASTY = '"><script>alert(1)</script><img src=x onerror=alert(2)>&'


def an_incident(message: str = "refused", start: str = "2026-01-01T10:00:00.000Z", *counts: int) -> Incident:
    level = [_Buckets(width, start, list(counts or (3,))) for width in (60, 3600, 86400)]
    return Incident(
        fingerprint=f"v1-{message[:9]}", endpoint="/x", message=message, state="new", count=sum(counts or (3,)),
        first_seen=start, last_seen=start, timeline=level,
    )  # fmt: skip


def an_entry(text: str, effect: float | None = 0.5) -> PlaybookView:
    low, high = (None, None) if effect is None else (effect - 0.2, effect + 0.1)
    arms = ArmResult(tasks=100, successes=80), ArmResult(tasks=50, successes=15)
    return PlaybookView(
        playbook_id="pb-1", version=1, at="2026-01-01T00:00:00.000Z", kind="avoid", endpoint=NASTY, text=text,
        successes=1, avg_duration_ms=0.0, author="rule", state="active",
        measured=Measured(shown=arms[0], withheld=arms[1], effect=effect, low=low, high=high),
    )  # fmt: skip


def a_report(entries: list[PlaybookView], incidents: list[Incident]) -> ReportData:
    overall = entries[0].measured if entries else None
    return ReportData(
        url="http://127.0.0.1:3800", at="2026-01-01T10:00:00Z", operations_in_all=12, operations=10, failures=3,
        asked=5, told=4, tasks=3, measured=overall, avoided=Estimate(None), entries=entries, incidents=incidents,
        times=times(incidents),
    )  # fmt: skip


def test_failures_avoided_are_the_effect_times_those_told() -> None:
    """With the interval's ends; nothing where nothing is known."""
    found = avoided(an_entry("a").measured)
    assert (found.value, found.low, found.high) == pytest.approx((50.0, 30.0, 60.0))
    assert avoided(None) == Estimate(None, None, None)


def test_columns_are_as_narrow_as_show_everything() -> None:
    """Two incidents an hour apart are told by the minute or the hour; beyond five there are others."""
    near = times([an_incident("a"), an_incident("b", "2026-01-01T10:10:00.000Z", 1, 2)])
    assert near is not None
    assert (near.width_s, len(near.series[0].counts)) == (60, 12)
    assert [series.counts[-2:] for series in near.series] == [[0, 0], [1, 2]]
    far = times([an_incident("a"), an_incident("b", "2026-01-01T18:00:00.000Z")])
    assert far is not None
    assert (far.width_s, sum(far.series[0].counts)) == (3600, 3)
    many = times([an_incident(f"m{number}") for number in range(8)])
    assert many is not None
    assert (many.series[-1].name, many.series[-1].counts) == ("3 others", [9])
    assert times([]) is None


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_nothing_that_was_sent_becomes_markup() -> None:
    """Messages, endpoints and texts of entries are text, also in titles and in the charts."""
    page = html(a_report([an_entry(NASTY), an_entry(NASTY, None)], [an_incident(NASTY)]))
    found = _Tags()
    found.feed(page)
    assert found.tags.isdisjoint({"script", "img", "link", "iframe", "object"})
    assert not {name for name in found.attributes if name.startswith("on") or name in ("src", "href")}
    assert "default-src 'none'" in page
    assert not re.search(r"https?://(?!127\.0\.0\.1)", page)
    assert NASTY not in page


def test_an_empty_report_says_so() -> None:
    """No failures, no advice: nothing is drawn, and nothing fails."""
    page = html(a_report([], []))
    for said in ("not known yet", "There were no failures", "No rule has become an entry yet"):
        assert said in page


def test_an_interval_is_drawn_where_it_lies() -> None:
    """The dot stands between the ends; what is below zero is bad."""
    drawn = intervals([("a", "bad", (-0.6, -0.4, -0.1))])
    low, high = (float(each) for each in re.findall(r'span" x1="([\d.]+)" x2="([\d.]+)"', drawn)[0])
    (dot,) = re.findall(r'cx="([\d.]+)"', drawn)
    (zero,) = re.findall(r'zero" x1="([\d.]+)"', drawn)
    assert low < float(dot) < high < float(zero)
    assert "−40" in drawn


def test_long_entries_and_incidents_are_wrapped_and_never_cut() -> None:
    """Whole on one line where there is no terminal; on one, in lines that fit, without a lost word."""
    text = "Avoid channel=sms " + "and " * 30 + "x" * 150 + " 漢字" * 30 + " the end"
    report = a_report([an_entry(text)], [an_incident("refused " * 30 + "last")])
    whole = [line for line, _ in _lines(report, None)]
    assert any(line.endswith(f"{NASTY}: {text}") for line in whole)
    assert any(line.endswith("refused last") for line in whole)
    narrow = [line for line, _ in _lines(report, 80)]
    assert max(cell_len(line) for line in narrow[5:]) <= 80
    assert "".join("".join(narrow).split()) == "".join("".join(whole).split())
    assert "  +50 " in "\n".join(narrow)


def test_open_incidents_are_said_in_words() -> None:
    """All, none, or how many."""
    open_, closed = an_incident("a"), an_incident("b")
    closed.state = "resolved"
    said = [open_words(each) for each in ([open_, open_], [open_, closed], [closed], [])]
    assert said == ["2, all open", "2, 1 open", "1, none open", "0"]


def test_an_entry_that_was_not_measured_is_in_the_table_alone() -> None:
    """A chart has only what has an interval; without any there is no chart."""
    pages = [html(a_report([an_entry("first", effect), an_entry("second", None)], [])) for effect in (0.5, None)]
    assert [page.count('class="label"') for page in pages] == [1, 0]
    assert all(page.count("second") == 1 for page in pages)


def test_known_effects_come_first() -> None:
    """What is not known yet stands behind them, however good it looks, and what is not measured at the end."""
    effects = (None, 0.15, 0.3, -0.4)  # an interval is from 0.2 below to 0.1 above: that of 0.15 includes zero
    entries = [an_entry("x", effect) for effect in effects]
    assert [by_effect(each)[:2] for each in sorted(entries, key=by_effect)] == [
        (0, -0.3),
        (0, 0.4),
        (1, -0.15),
        (2, -0.0),
    ]


async def test_the_command_prints_tables_or_json_and_writes_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a running observer that learnt a rule: its entry and its incident are in all of them."""
    async with observer(tmp_path) as running, client(running) as http:
        await learnt(running, http)
        for number in range(40):
            params = {"endpoint": ENDPOINT, "certified": "false", "task": f"t-{number}"}
            await http.get("/advice", params=params)
            (event,) = calls(1, seed=number)
            await http.post("/event", json={**event, "task": f"t-{number}"})
        await running.cycle.run_once()  # effects are worked out once a cycle
        page = tmp_path / "report.html"
        flags = ["report", "--url", f"http://127.0.0.1:{running.port}", "--html", str(page)]
        assert await asyncio.to_thread(main, flags) == 0
        said = capsys.readouterr().out
        page.unlink()
        assert await asyncio.to_thread(main, [*flags, "--json"]) == 0
        data = json.loads(capsys.readouterr().out)  # nothing else is on standard output
        stats = (await http.get("/stats")).json()["advice"]
        entries = (await http.get("/playbooks")).json()["playbooks"]
    low, high = stats["avoided"]["low"], stats["avoided"]["high"]
    assert re.search(rf"failures avoided +.*{low:,.0f} (to|and) {high:,.0f}\)", said)
    assert stats["measured"]["shown"]["tasks"] + stats["measured"]["withheld"]["tasks"] == stats["tasks"]
    assert "Avoid certified=false" in said
    assert f"effect            {effect_words(msgspec.convert(stats['measured'], Measured))}" in said
    assert "refused" in said
    assert "Avoid certified=false" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o600  # it quotes operations
    days = (datetime.fromisoformat(data["at"]), datetime.now(UTC))  # a month may begin meanwhile
    assert any(day.astimezone(UTC).strftime("%Y-%m") in page.read_text() for day in days)
    assert (data["measured"], data["avoided"], data["tasks"]) == (stats["measured"], stats["avoided"], stats["tasks"])
    assert sorted(data["entries"], key=str) == sorted(entries, key=str)
    assert datetime.fromisoformat(data["at"]).tzinfo is not None
    assert {"endpoint", "message", "state", "count"} <= set(data["incidents"][0])
    assert sum(sum(each["counts"]) for each in data["times"]["series"]) == sum(i["count"] for i in data["incidents"])
