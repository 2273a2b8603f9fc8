"""The error of a stack trace and where it was raised are kept; the frames on the way there are not."""

from __future__ import annotations

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.stack_trace import without_frames

NODE = """Error: seat 12A is taken
    at take (/srv/app/server.mjs:20:9)
    at deep (/srv/app/server.mjs:15:30)
    at async Promise.all (index 0) {
  code: 'ETAKEN'
}"""
JVM = """java.lang.IllegalStateException: shift is closed
\tat com.acme.Shifts.fill(Shifts.java:42)
\tat com.acme.Main.main(Main.java:7)
Caused by: java.io.IOException: gone"""
GO = "panic: runtime error: index out of range [5] with length 3\n\ngoroutine 1 [running]:\nmain.main()"


def look(depth: int) -> None:
    if depth:
        look(depth - 1)
    raise KeyError("certificate")


@pytest.mark.parametrize("depth", [0, 3, 60])
def test_a_python_traceback_is_its_last_error_and_the_innermost_function(depth: int) -> None:
    """However deep, also where one error was raised while another was handled."""
    try:
        look(depth)
    except KeyError as exc:
        text = "".join(traceback.format_exception(exc))
        assert without_frames(text) == "KeyError: 'certificate' (in look)"
        try:
            raise RuntimeError("cannot fill\nshift 7") from exc
        except RuntimeError as second:
            chained = "".join(traceback.format_exception(second))
    name = "test_a_python_traceback_is_its_last_error_and_the_innermost_function"
    assert without_frames(chained) == f"RuntimeError: cannot fill\nshift 7 (in {name})"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (NODE, "Error: seat 12A is taken (in take)"),
        (JVM, "java.lang.IllegalStateException: shift is closed"),
        (GO, "panic: runtime error: index out of range [5] with length 3"),
        ("one line", "one line"),
        ("two lines\nwithout frames", "two lines\nwithout frames"),
        (
            "Traceback (most recent call last):\nand nothing more",
            "Traceback (most recent call last):\nand nothing more",
        ),
        ("\n    at once", "\n    at once"),
    ],
)
def test_other_traces_are_what_stands_before_their_frames(text: str, kept: str) -> None:
    """Text without frames stays as it is."""
    assert without_frames(text).startswith(kept)


PIECES = [
    "Traceback (most recent call last):\n",
    '  File "x", line 1, in f\n',
    *("E: m\n", " x\n", "\n    at f (x:1:2)", "\n\tat g", "\ngoroutine 1", "é"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_has_an_essence(text: str) -> None:
    """Whatever is broken about a trace, something is left of it, no longer than it was but for a name."""
    assert len(without_frames(text)) <= len(text) + 100
    assert without_frames(text) or not text.strip() or text.startswith("\ngoroutine")


@pytest.mark.parametrize(
    "piece", ["Traceback (most recent call last):\n", '  File "a", line 1, in f\n', "\n    at a", "\n\tat "]
)
def test_a_trace_made_to_be_slow_is_read_within_its_bound(piece: str) -> None:
    """A megabyte of frames is looked at in part."""
    assert len(without_frames(piece * 200_000)) <= 200_000 * len(piece)
