"""The log: one line an event, on one stream, readable or JSON."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from sidecar.logs import configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; what other tests had configured is put back."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers, root.level, structlog.get_config()
    yield io.StringIO()
    root.handlers, root.level = handlers, level
    structlog.configure(**configured)


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def undated(stream: io.StringIO) -> list[str]:
    """The lines of a text log behind their times."""
    told = [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{6})?Z (.*)", line) for line in lines(stream)]
    return [each[1] if each is not None else "no time" for each in told]


def test_text_lines_begin_with_their_time(stream: io.StringIO) -> None:
    """The same UTC time as in a JSON log, also on the lines of a cycle and of libraries."""
    begun = datetime.now(UTC)
    configure("text", "info", stream)
    structlog.get_logger("t").info("port.opened")
    structlog.get_logger("t").info("cycle.completed", cycle=3)
    logging.getLogger("some.library").warning("late")
    times = [datetime.fromisoformat(line.split()[0]) for line in lines(stream)]
    assert undated(stream) == ["[observer] port.opened", '[observer] cycle 3: {"cycle":3}', "[observer] WARNING late"]
    assert all(begun - timedelta(hours=1) < at < begun + timedelta(hours=1) for at in times)  # no local time


def test_text_lines_show_level_event_and_fields(stream: io.StringIO) -> None:
    """Levels other than info are named; fields follow as key=value."""
    configure("text", "info", stream)
    log = structlog.get_logger("t")
    log.debug("left.out")
    log.info("port.opened", port=3800, serves="http", tls=False)
    log.warning("outbox.retry_scheduled", wait_s=1.5, why="no answer yet")
    assert undated(stream) == [
        "[observer] port.opened port=3800 serves=http tls=false",
        '[observer] WARNING outbox.retry_scheduled wait_s=1.5 why="no answer yet"',
    ]


def test_the_cycle_keeps_its_line(stream: io.StringIO) -> None:
    """Existing log searches match the line of a cycle; nothing in it can break the log."""
    configure("text", "info", stream)
    structlog.get_logger("t").info("cycle.completed", cycle=3, ops=5, failures=1, odd={1})
    assert undated(stream) == ['[observer] cycle 3: {"cycle":3,"ops":5,"failures":1,"odd":"{1}"}']


def test_hostile_text_stays_on_its_line(stream: io.StringIO) -> None:
    """Line ends, a terminal's escapes, quotes and what looks like another field are written out."""
    configure("text", "info", stream)
    log = structlog.get_logger("t")
    for text in ("a\nb", "a\r\x1b[31mb", 'a"b', "a=b c=d", "\ud800", "\u2028x", ""):
        log.info("op.lost", endpoint=text, n=1)
    shown = stream.getvalue()
    assert shown.count("\n") == 7 == len(lines(stream))
    assert all(line.isprintable() and line.endswith(" n=1") for line in lines(stream))


def test_json_lines_can_be_read_back(stream: io.StringIO) -> None:
    """Each line is an object with time, level, event and fields."""
    configure("json", "debug", stream)
    structlog.get_logger("t").error("journal.write_failed", error="a\nb", odd=object)
    (line,) = lines(stream)
    read = json.loads(line)
    assert (read["event"], read["level"], read["error"]) == ("journal.write_failed", "error", "a\nb")
    assert read["timestamp"].endswith("Z")


@pytest.mark.parametrize("form", ["text", "json"])
def test_exceptions_come_with_their_traceback(stream: io.StringIO, form: str) -> None:
    """An unexpected error is logged where it came from."""
    configure(form, "info", stream)
    try:
        raise ValueError("poison")
    except ValueError:
        structlog.get_logger("t").exception("op.lost", op="x")
    assert "Traceback" in stream.getvalue()
    assert "ValueError: poison" in stream.getvalue()
    assert "op.lost" in lines(stream)[0]


@pytest.mark.parametrize(("form", "level"), [("text", "info"), ("json", "info"), ("text", "error")])
def test_libraries_log_the_same_way(stream: io.StringIO, form: str, level: str) -> None:
    """Warnings of the standard library's loggers take the same form on the same stream; their chatter is left out."""
    configure(form, level, stream)
    library = logging.getLogger("some.library")
    library.info("chatter")
    library.warning("took %d s\nand more", 3)
    library.error("broke")
    said = lines(stream) if form == "json" else undated(stream)
    if level == "error":
        assert said == ["[observer] ERROR broke"]
    elif form == "text":
        assert said == ["[observer] WARNING took 3 s\\nand more", "[observer] ERROR broke"]
    else:
        assert [json.loads(line)["event"] for line in said] == ["took 3 s\nand more", "broke"]


def test_configuring_twice_leaves_one_handler(stream: io.StringIO) -> None:
    """No line comes twice."""
    configure("json", "info", stream)
    configure("text", "info", stream)
    logging.getLogger("x").warning("once")
    assert len(lines(stream)) == 1
