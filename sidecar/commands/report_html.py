"""The report as one HTML file: no script, nothing loaded from elsewhere, every text escaped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from sidecar.commands.report_charts import Interval, columns, intervals
from sidecar.commands.report_data import Estimate, Incident, ReportData, Times, avoided, open_words
from sidecar.measured_words import effect_words
from sidecar.model_learning import ArmResult, Measured, PlaybookView

_MOST_ROWS: Final = 25
_STYLE = """
:root{--bg:#fbfbfa;--card:#fff;--ink:#1c2024;--dim:#667079;--line:#e3e6e8;--good:#1a7f4b;--bad:#c0392b;
--flat:#7a838b;
--c0:#3867b5;--c1:#e08a2e;--c2:#2f9c8f;--c3:#a0529c;--c4:#b8a12a;--c5:#9aa3ab}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1d2125;--ink:#e6e9eb;--dim:#97a1a9;--line:#30363b;
--good:#4cc38a;--bad:#ff7b6b;--flat:#97a1a9;--c0:#6b9bf0;--c1:#f0a858;--c2:#58c7b9;--c3:#cf86cb;--c4:#dcc85a;
--c5:#6c757d}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:0 auto;padding:32px 24px 64px}h1{font-size:24px;margin:0}h2{font-size:17px;
margin:0 0 4px}
p{margin:4px 0 12px}.dim{color:var(--dim)}.cards{display:grid;
grid-template-columns:repeat(auto-fit,minmax(190px,1fr));
gap:12px;margin:24px 0}.card,section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:16px 20px}
section{margin:16px 0;overflow-x:auto}.big{font-size:28px;font-weight:650;line-height:1.2}.good{color:var(--good)}
.bad{color:var(--bad)}table{border-collapse:collapse;width:100%;font-size:14px}th{text-align:left;color:var(--dim);
font-weight:500}th,td{padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}td.w{overflow-wrap:anywhere;min-width:140px}
svg{width:100%;height:auto;display:block;font:12px system-ui,sans-serif}.grid{stroke:var(--line)}
.zero{stroke:var(--dim);
stroke-dasharray:3 3}.tick{fill:var(--dim)}
.label{font-size:13px;overflow-wrap:anywhere}.value{fill:var(--ink);
font-weight:600}
.span{stroke-width:3;stroke-linecap:round;opacity:.55}line.good{stroke:var(--good)}line.bad{stroke:var(--bad)}
line.flat{stroke:var(--flat)}circle.good{fill:var(--good)}circle.bad{fill:var(--bad)}circle.flat{fill:var(--flat)}
.legend{display:flex;flex-direction:column;gap:2px;font-size:13px;margin-top:10px}.legend i{display:inline-block;
width:10px;
height:10px;border-radius:2px;margin-right:8px}.c0{fill:var(--c0);background:var(--c0)}.c1{fill:var(--c1);
background:var(--c1)}
.c2{fill:var(--c2);background:var(--c2)}.c3{fill:var(--c3);background:var(--c3)}.c4{fill:var(--c4);
background:var(--c4)}
.c5{fill:var(--c5);background:var(--c5)}.state{font-size:12px;border:1px solid var(--line);border-radius:99px;
padding:1px 8px;
white-space:nowrap}
.intervals{display:grid;grid-template-columns:1fr 400px;gap:4px 16px;align-items:center;margin-bottom:16px}
.plot{overflow-x:auto}.plot svg{min-width:700px}
@media(max-width:700px){main{padding:12px}.intervals{grid-template-columns:1fr;gap:2px}thead{display:none}
tr{display:block;padding:8px 0;border-bottom:1px solid var(--line)}
td,td.n{display:inline-block;border:0;padding:2px 16px 2px 0;text-align:left}
td:first-child{display:block}td.n::before{content:attr(data-name) " ";color:var(--dim)}}"""


def html(data: ReportData) -> str:
    """The whole page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width"><title>Observer report</title>'
        f"<style>{_STYLE}</style></head><body><main>"
        f'<h1>What the observer learnt</h1><p class="dim">{escape(data.url)}, {escape(data.day_and_time)}</p>'
        f"{_cards(data)}{_groups(data.measured)}{_entries(data.entries)}{_over_time(data.times)}{_incidents(data.incidents)}"
        "</main></body></html>\n"
    )


def _cards(data: ReportData) -> str:
    failed = f"{100 * data.failures / data.operations:.0f} % of the last {data.operations:,}" if data.operations else ""
    cards = [
        ("Operations", f"{data.operations_in_all:,}", f"the last {data.operations:,} of them in memory", ""),
        ("Failures", f"{data.failures:,}", failed, ""),
        ("Failures avoided", *_avoided_words(data.avoided)),
        ("Tasks advised", f"{data.tasks:,}", f"since start {data.told:,} items told to {data.asked:,} questions", ""),
    ]
    return f'<div class="cards">{"".join(_card(*card) for card in cards)}</div>'


def _card(name: str, value: str, note: str, colour: str) -> str:
    return (
        f'<div class="card"><div class="dim">{escape(name)}</div><div class="big {colour}">{escape(value)}</div>'
        f'<div class="dim">{escape(note)}</div></div>'
    )


def _avoided_words(found: Estimate) -> tuple[str, str, str]:
    if found.value is None or found.low is None or found.high is None:
        return "not known yet", "both groups need a task", ""
    if found.low <= 0 <= found.high:
        return "not known yet", f"between {found.low:,.0f} and {found.high:,.0f}", ""
    colour = "good" if found.low > 0 else "bad"
    return f"{found.value:,.0f}", f"between {found.low:,.0f} and {found.high:,.0f}, valid at any time", colour


def _groups(overall: Measured | None) -> str:
    if overall is None or overall.effect is None:
        return _section("Shown against withheld", "No advice was both shown and withheld yet.", "")
    rows = [_group_row("shown something", overall.shown), _group_row("all withheld at random", overall.withheld)]
    said = (
        f"Success rate of tasks that were shown advice, minus that of tasks from which all advice was withheld at "
        f"random: {effect_words(overall)} (95 % interval, valid at any time). This is of all advice so far; an entry, "
        f"below, is measured anew when its words change."
    )
    heads = ("group", "tasks", "succeeded", "no outcome in time", "only reported", "read it themselves")
    return _section("Shown against withheld", said, _table(heads, rows))


def _group_row(name: str, group: ArmResult) -> list[str]:
    rate = f"{100 * group.successes / group.tasks:.0f} %" if group.tasks else "–"
    return [name, f"{group.tasks:,}", rate, f"{group.missing:,}", f"{group.reported:,}", f"{group.informed:,}"]


def _entries(entries: Sequence[PlaybookView]) -> str:
    told = [each for each in entries if each.measured is not None or each.author != "successes"][:_MOST_ROWS]
    if not told:
        return _section("Entries by effect", "No rule has become an entry yet.", "")
    measured = [(each, found) for each in told if (found := _effect(each.measured)) is not None]
    drawn = [(f"{each.endpoint}: {each.text}", _colour(each.measured), found) for each, found in measured]
    chart = intervals(drawn) if drawn else ""
    rows = [
        [each.text, each.state, each.endpoint, *_group_counts(each.measured), _between(avoided(each.measured))]
        for each in told
    ]
    heads = ("entry", "state", "endpoint", "shown", "withheld", "failures avoided")
    said = (
        "Points of success rate gained by being shown the entry, with its interval; ? while that includes "
        "both good and bad. Tasks that are told several count for each of them, so that failures avoided do not add up."
    )
    return _section("Entries by effect", said, chart + _table(heads, rows, words=3))


def _colour(measured: Measured | None) -> str:
    if measured is None or measured.low is None or measured.high is None:
        return "flat"
    return "good" if measured.low > 0 else "bad" if measured.high < 0 else "flat"


def _effect(measured: Measured | None) -> Interval | None:
    if measured is None or measured.low is None or measured.effect is None or measured.high is None:
        return None
    return measured.low, measured.effect, measured.high


def _group_counts(measured: Measured | None) -> tuple[str, str]:
    if measured is None:
        return "–", "–"
    return f"{measured.shown.tasks:,}", f"{measured.withheld.tasks:,}"


def _between(found: Estimate) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "–"
    between = f"({found.low:,.0f} to {found.high:,.0f})"
    return f"? {between}" if found.low <= 0 <= found.high else f"{found.value:,.0f} {between}"


def _over_time(times: Times | None) -> str:
    if times is None:
        return _section("Incidents over time", "There were no failures.", "")
    unit = {60: "minute", 3600: "hour", 86400: "day"}.get(times.width_s, f"{times.width_s} s")
    legend = "".join(
        f'<span><i class="c{number % 6}"></i>{escape(each.name[:140])}</span>'
        for number, each in enumerate(times.series)
    )
    chart = columns(times)
    return _section(
        "Incidents over time",
        f"Failures a {unit}, UTC.",
        f'<div class="plot">{chart}</div><div class="legend">{legend}</div>',
    )


def _incidents(incidents: Sequence[Incident]) -> str:
    rows = [
        [each.message, each.state, each.endpoint, f"{each.count:,}", each.first, each.last]
        for each in incidents[:_MOST_ROWS]
    ]
    if not rows:
        return ""
    heads = ("incident", "state", "endpoint", "failures", "first, UTC", "last, UTC")
    return _section("Incidents", f"{open_words(incidents)}.", _table(heads, rows, words=3))


def _section(title: str, said: str, body: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="dim">{escape(said)}</p>{body}</section>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A table whose first *words* columns are text, the others numbers."""
    head = "".join(f"<th{'' if at < words else _NUMBER}>{escape(name)}</th>" for at, name in enumerate(heads))
    body = "".join(
        f"<tr>{''.join(_cell(at, heads[at], text, words) for at, text in enumerate(row))}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_NUMBER = ' class="n"'


def _cell(at: int, name: str, text: str, words: int) -> str:
    if at == 1 and words > 1:
        return f'<td><span class="state">{escape(text)}</span></td>'
    told = escape(text[:300]).replace("/", "/<wbr>") if at == 2 and words > 1 else escape(text[:300])  # endpoints
    if at < words:
        return f'<td class="w">{told}</td>'
    return f'<td class="n" data-name="{escape(name)}">{told}</td>'
