"""`observer tail` against a real observer, over its restarts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from sidecar.commands.observer_client import AskError, ObserverClient
from sidecar.commands.tail import Tail
from sidecar.commands.terminal import Terminal
from sidecar.model import ObservedOp
from tests.processes import PATIENCE_S, Process, observer_command, observer_env, running_observer


def send(observer: Process, **fields: Any) -> None:
    httpx.post(
        observer.url + "/event", json={"success": True, **fields}, trust_env=False, timeout=30
    ).raise_for_status()


@contextlib.contextmanager
def tailing(tmp_path: Path, url: str, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """`observer tail` with its output and errors on pipes, ended by its pid."""
    popen = subprocess.Popen(
        observer_command("tail", "--url", url, *arguments),
        env=observer_env(tmp_path, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with popen:
        try:
            yield popen
        finally:
            popen.kill()


def line(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    return popen.stdout.readline().rstrip("\n")


def note(popen: subprocess.Popen[str]) -> str:
    assert popen.stderr is not None
    return popen.stderr.readline().rstrip("\n")


def test_tail_prints_the_last_ops_then_each_new_one(tmp_path: Path) -> None:
    """Oldest first, whole lines without colours where there is no terminal."""
    with running_observer(tmp_path) as observer:
        for number in range(5):
            send(observer, input_summary=f"old {number}", endpoint="/v1/fill")
        with tailing(tmp_path, observer.url, "-n", "2") as tail:
            assert "old 3" in line(tail)
            assert line(tail).endswith("ok    /v1/fill                     0 ms  old 4 → ok  scenario")
            send(observer, input_summary="new", success=False, error="closed\x1b[2J\ncity", duration_ms=1234)
            shown = line(tail)
            assert "FAIL  scenario:fill" in shown
            assert shown.endswith("1.2 s  new → closed\\x1b[2J\\ncity  scenario")
            tail.send_signal(signal.SIGINT)
            assert tail.wait(PATIENCE_S) == 0
            assert tail.stderr is not None
            assert tail.stderr.read() == ""


def test_tail_shows_only_what_was_asked_for(tmp_path: Path) -> None:
    """Filters hold for the past and for what comes; `--json` prints each op as it is."""
    with running_observer(tmp_path) as observer:
        for success in (True, False):
            for source in ("scenario", "langfuse"):
                for endpoint in ("/a", "/b"):
                    send(observer, success=success, source=source, endpoint=endpoint, input_summary="past")
        filters = ("--failures", "--source", "langfuse", "--endpoint", "/b", "--json")
        with tailing(tmp_path, observer.url, *filters) as tail:
            assert json.loads(line(tail))["input_summary"] == "past"
            send(observer, success=False, source="langfuse", endpoint="/a")
            send(observer, success=False, source="langfuse", endpoint="/b", input_summary="now \u2028 \x85 \u202e ä")
            text = line(tail)
            assert text.isprintable()
            op = json.loads(text)
            assert (op["input_summary"], op["success"]) == ("now \u2028 \x85 \u202e ä", False)


def test_tail_goes_on_after_a_restart_and_repeats_nothing(tmp_path: Path) -> None:
    """What happened before it was connected again is shown too, once."""
    with running_observer(tmp_path) as observer:
        for text in ("older", "one"):
            send(observer, input_summary=text)
        port = observer.url.rsplit(":", 1)[1]
        with tailing(tmp_path, observer.url, "-n", "1") as tail:
            assert "one" in line(tail)
            observer.kill()
            assert "connection lost" in note(tail)
            with running_observer(tmp_path, OBSERVER_PORT=port) as again:
                send(again, input_summary="two")
                assert note(tail) == "-- connected again"
                send(again, input_summary="three")
                assert "two" in line(tail)
                assert "three" in line(tail)


class ScriptedClient(ObserverClient):
    """Plays one stream after the other, then nobody is there; `/ops` answers page by page."""

    def __init__(self, streams: list[bytes], pages: list[dict[str, Any] | AskError]) -> None:
        super().__init__("http://script", "")
        self._streams = iter(streams)
        self._pages = iter(pages)
        self.asked: list[dict[str, str]] = []

    def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        assert path == "/ops"
        self.asked.append(dict(params or {}))
        page = next(self._pages)
        if isinstance(page, AskError):
            raise page
        return msgspec.json.encode(page)

    @contextlib.contextmanager
    def stream(self, path: str, params: Mapping[str, str]) -> Iterator[Iterator[bytes]]:
        stream = next(self._streams, None)
        if stream is None:
            raise KeyboardInterrupt
        yield iter([stream])


def an_op(text: str) -> ObservedOp:
    return ObservedOp(
        timestamp="2026-11-23T02:30:49.123Z",
        endpoint="/v1/fill",
        input_summary=text,
        success=True,
        duration_ms=1,
        output_summary="",
        op_id=text,
    )


def live(*texts: str) -> bytes:
    return b"".join(b"event: op\ndata: " + msgspec.json.encode(an_op(t)) + b"\n\n" for t in texts)


def page(*texts: str, **more: str) -> dict[str, Any]:
    return {"ops": [an_op(text) for text in texts], **more}


def followed(streams: list[bytes], pages: list[dict[str, Any] | AskError], recent: int) -> tuple[list[str], str]:
    """(what ops were printed, the notes) until the script ends."""
    out, notes = io.StringIO(), io.StringIO()
    with ScriptedClient(streams, pages) as client:
        tail = Tail(client, {}, Terminal(out, {}), Terminal(notes, {}), as_json=True, pause=lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            tail.follow(recent)
    return [json.loads(text)["input_summary"] for text in out.getvalue().splitlines()], notes.getvalue()


def test_catching_up_reads_pages_back_to_the_last_op_seen() -> None:
    """Each op once, in order, however the past and the stream overlap; -n 0 prints no past."""
    printed, notes = followed(
        [live("b", "c"), live("g", "h")],
        [page("a"), page("g", "f", next_cursor="f"), page("e", "d", "c", "b", "a")],
        recent=0,
    )
    assert printed == ["b", "c", "d", "e", "f", "g", "h"]
    assert "connected again" in notes


def test_catching_up_takes_what_is_left_of_a_ring_that_has_moved_on() -> None:
    """A cursor whose op has left memory ends the reading; what was read is printed."""
    gone = AskError("refused", "its op is no longer in memory", "Begin without a cursor")
    printed, _ = followed([b"", b""], [page("b", "a"), page("z", "y", next_cursor="y"), gone], recent=2)
    assert printed == ["a", "b", "y", "z"]


def test_ops_that_were_too_fast_are_told() -> None:
    """The stream says how many it dropped, and so does the tail."""
    printed, notes = followed([b'event: missed\ndata: {"missed": 7}\n\n' + live("b")], [page()], recent=5)
    assert printed == ["b"]
    assert "7 operations came too fast" in notes


def test_tail_ends_quietly_when_its_reader_leaves(tmp_path: Path) -> None:
    """As in `observer tail | head -1`."""
    with running_observer(tmp_path) as observer:
        send(observer)
        with tailing(tmp_path, observer.url) as tail:
            line(tail)
            assert tail.stdout is not None
            tail.stdout.close()
            send(observer)
            assert tail.wait(PATIENCE_S) == 0
            assert tail.stderr is not None
            assert tail.stderr.read() == ""


@pytest.mark.parametrize(("settings", "coloured"), [({"TERM": "xterm"}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_and_width_are_for_terminals(tmp_path: Path, settings: dict[str, str], coloured: bool) -> None:
    """On a terminal lines fit; colours are left out where NO_COLOR says so."""
    with running_observer(tmp_path) as observer:
        send(observer, success=False, error="x" * 500, input_summary="y" * 500)
        ours, theirs = pty.openpty()
        tail = subprocess.Popen(
            observer_command("tail", "--url", observer.url), env=observer_env(tmp_path, **settings), stdout=theirs
        )
        try:
            os.set_blocking(ours, True)
            shown = b""
            while b"\n" not in shown:
                shown += os.read(ours, 4096)
            assert (b"\x1b[" in shown) is coloured
            assert "…" in shown.decode()
        finally:
            tail.kill()
            tail.wait()
            os.close(ours)
            os.close(theirs)
