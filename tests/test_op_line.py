"""How an op looks on a line, what a terminal is spared, and how an event stream is read."""

from __future__ import annotations

import io
import json
from datetime import UTC
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sidecar.commands.op_line import op_line
from sidecar.commands.sse import Event, EventParser
from sidecar.commands.terminal import Terminal, fitted, padded, visible, visible_json
from sidecar.model import ObservedOp


def an_op(**fields: Any) -> ObservedOp:
    known = {
        "timestamp": "2026-11-23T02:30:49.123Z",
        "endpoint": "/v1/fill",
        "input_summary": "fill",
        "success": True,
        "duration_ms": 12,
        "output_summary": "filled",
    }
    return ObservedOp(**{**known, **fields})


@given(
    st.lists(st.tuples(st.text("ab \u2028\x85:", max_size=9), st.text("xé\u2029: ", min_size=1, max_size=9))), st.data()
)
def test_events_are_found_however_the_stream_is_cut(events: list[tuple[str, str]], data: st.DataObject) -> None:
    """Chunks end anywhere, also inside a character; comments and ids are skipped; CR LF ends a line too."""
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    text = "".join(f": hello{end}event: {name}{end}id: 1{end}data: {body}{end}{end}" for name, body in events).encode()
    parser = EventParser()
    found: list[Event] = []
    while text:
        size = data.draw(st.integers(1, len(text)))
        found += parser.feed(text[:size])
        text = text[size:]
    assert found == [Event(name or "message", body.encode()) for name, body in events]


@given(st.text())
def test_no_text_can_steer_the_terminal(text: str) -> None:
    """What is shown is one line of printable characters; JSON keeps its value."""
    assert visible(text).isprintable()
    encoded = msgspec.json.encode(text.encode("utf-8", "replace").decode()).decode()
    assert visible_json(encoded).isprintable()
    assert json.loads(visible_json(encoded)) == json.loads(encoded)


@given(st.text("aé漢🎉 "), st.integers(0, 20))
def test_text_is_cut_to_columns(text: str, columns: int) -> None:
    """Wide characters count as two."""
    assert cell_len(fitted(text, columns)) <= columns
    assert cell_len(padded(text, columns)) == columns


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0, "0 ms"),
        (1.25, "1.2 ms"),
        (9.96, "10 ms"),
        (999.4, "999 ms"),
        (999.6, "1.0 s"),
        (120_000, "120 s"),
        (1e300, "1e+297 s"),
    ],
)
def test_durations_are_short(ms: float, shown: str) -> None:
    """Three figures are enough for the eye."""
    text = op_line(an_op(duration_ms=ms), Terminal(io.StringIO(), {}), UTC)
    assert text == f"2026-11-23 02:30:49  ok    {'/v1/fill':<24}  {shown:>7}  fill → filled"


class Screen(io.StringIO):
    """Says it is a terminal; of no known width, so of 80 columns."""

    def isatty(self) -> bool:
        return True


@given(st.text(), st.text(), st.text(), st.text(max_size=20), st.booleans())
def test_a_line_fits_the_terminal(endpoint: str, asked: str, outcome: str, source: str, success: bool) -> None:
    """Whatever an op holds, on a terminal it is one line of no more than its columns."""
    op = an_op(endpoint=endpoint, input_summary=asked, output_summary=outcome, success=success, source=source)
    text = op_line(op, Terminal(Screen(), {"NO_COLOR": "1"}), UTC)
    assert text.isprintable()
    assert cell_len(text) <= 80


def test_colours_tell_success_from_failure() -> None:
    """Green and red for the marks, nothing on a dumb terminal."""
    assert "\x1b[32mok  \x1b[0m" in op_line(an_op(), Terminal(Screen(), {}))
    assert "\x1b[1;31mFAIL\x1b[0m" in op_line(an_op(success=False), Terminal(Screen(), {}))
    assert "\x1b" not in op_line(an_op(), Terminal(Screen(), {"TERM": "dumb"}))


def test_what_was_shown_before_is_marked() -> None:
    """A second line of one operation would otherwise look like a second operation."""
    (once, again), plain = (an_op(source="mcp"), an_op(source="mcp", amends="o1")), Terminal(io.StringIO(), {})
    assert [op_line(op, plain, marks_again=True).rpartition("filled")[2] for op in (once, again)] == [
        "  mcp",
        "  again, mcp",
    ]
    assert op_line(again, plain).endswith("→ filled  mcp")


def test_a_strange_timestamp_is_shown_as_it_is() -> None:
    """An op from elsewhere must not end the tail."""
    assert op_line(an_op(timestamp="soon\x07"), Terminal(io.StringIO(), {})).startswith("soon\\x07  ok")
