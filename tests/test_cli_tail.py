"""`observer tail` and `observer stats` against a real observer; how their text looks."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from sidecar.commands.observer_client import AskError, AwayError, ObserverClient, observer_client
from sidecar.commands.op_line import op_line
from sidecar.commands.sse import Event, EventParser
from sidecar.commands.tail import Tail
from sidecar.commands.terminal import Terminal, fitted, padded, visible, visible_json
from sidecar.model import ObservedOp
from tests.observers import Answer, says, stand_in
from tests.processes import Process, observer_command, observer_env, run_command, running_observer


def send(observer: Process, **fields: Any) -> None:
    httpx.post(observer.url + "/event", json={"success": True, **fields}, trust_env=False).raise_for_status()


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
            assert line(tail).endswith("ok    /v1/fill                     0 ms  old 4 → filled  scenario")
            send(observer, input_summary="new", success=False, error="closed\x1b[2J\ncity", duration_ms=1234)
            shown = line(tail)
            assert "FAIL  scenario:fill" in shown
            assert shown.endswith("1.2 s  new → closed\\x1b[2J\\ncity  scenario")
            tail.send_signal(signal.SIGINT)
            assert tail.wait(30) == 0
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


def live(*texts: str) -> bytes:
    return b"".join(
        b"event: op\ndata: " + msgspec.json.encode(an_op(op_id=t, input_summary=t)) + b"\n\n" for t in texts
    )


def page(*texts: str, **more: str) -> dict[str, Any]:
    return {"ops": [an_op(op_id=text, input_summary=text) for text in texts], **more}


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
            assert tail.wait(30) == 0
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


def test_stats_prints_what_was_counted(tmp_path: Path) -> None:
    """Plain lines without a terminal, the observer's own JSON with `--json`; the token comes from the environment."""
    with running_observer(tmp_path, OBSERVER_TOKEN="sesame") as observer:
        headers = {"Authorization": "Bearer sesame"}
        for success in (True, True, False):
            event = {"success": success, "event_kind": "fill\x1b[2J"}
            httpx.post(observer.url + "/event", json=event, headers=headers, trust_env=False).raise_for_status()
        plain = run_command(tmp_path, "stats", "--url", observer.url, OBSERVER_TOKEN="sesame")
        as_json = run_command(tmp_path, "stats", "--url", observer.url, "--token", "sesame", "--json")
        refused = run_command(tmp_path, "stats", "--url", observer.url)
        own = run_command(
            tmp_path, "stats", "--token", "sesame", OBSERVER_PORT=observer.url.rsplit(":", 1)[1], OBSERVER_HOST="::"
        )
    assert plain.returncode == 0
    assert "  succeeded                              2   66.7%" in plain.stdout
    assert "fill\\x1b[2J" in plain.stdout
    assert "\x1b" not in plain.stdout
    assert json.loads(as_json.stdout)["failures"] == 1
    assert refused.returncode == 1
    assert "refused us (401)" in refused.stderr
    assert "OBSERVER_TOKEN" in refused.stderr
    assert own.returncode == 1  # `::` is asked at [::1], where this observer does not listen
    assert "http://[::1]:" in own.stderr


def test_stats_is_a_table_on_a_terminal(tmp_path: Path) -> None:
    """With a frame and bars, as wide as the terminal at most."""
    with running_observer(tmp_path) as observer:
        send(observer)
        ours, theirs = pty.openpty()
        done = subprocess.run(
            observer_command("stats", "--url", observer.url),
            env=observer_env(tmp_path, TERM="xterm"),
            stdout=theirs,
            check=False,
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
    assert done.returncode == 0
    assert shown.decode().startswith("\x1b[2m╭─")
    assert "observer at" in shown.decode()
    assert "last scenario operations" in shown.decode()


@pytest.mark.parametrize("command", ["stats", "tail"])
def test_an_observer_that_is_not_there_is_exit_1(tmp_path: Path, command: str) -> None:
    """One line says so, and what to do."""
    done = run_command(tmp_path, command, "--url", "127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.startswith("observer: no observer answers at http://127.0.0.1:9: ")
    assert "observer run" in done.stderr


@pytest.mark.parametrize("url", ["ftp://x", "http://a:b:c", "http://", "http://[::1"])
def test_nonsense_is_no_address(url: str) -> None:
    """A wrong --url is told from an observer that is away."""
    with pytest.raises(AskError, match="is no address") as said, observer_client(url, None, {}) as client:
        client.get("/stats")
    assert not isinstance(said.value, AwayError)


@pytest.mark.parametrize(
    ("answer", "said", "later"),
    [
        (Answer(200, b"<html>"), "is no observer", False),
        (Answer(200, b"[]"), "is no observer", False),
        (Answer(404), "is no observer", False),
        (says({"error": "no \x1b[2J"}, 503), r"no \\x1b\[2J", True),
        (says({"error": "Host is not ours"}, 421), "Host is not ours", False),
        (Answer(302, b"x"), "refused us", False),
    ],
)
async def test_a_strange_answer_is_explained(answer: Answer, said: str, later: bool) -> None:
    """Whatever answers there, the message says what it was; only what may pass is tried again."""

    def ask(url: str) -> None:
        with observer_client(url, None, {}) as client:
            client.decoded(client.get("/stats"), dict[str, Any])

    async with stand_in() as stub:
        stub.answers["/stats"] = answer
        with pytest.raises(AskError, match=said) as raised:
            await asyncio.to_thread(ask, stub.url)
    assert isinstance(raised.value, AwayError) is later


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({}, "http://127.0.0.1:3800"),
        ({"OBSERVER_PORT": "4000", "OBSERVER_HOST": "0.0.0.0"}, "http://127.0.0.1:4000"),
        ({"OBSERVER_HOST": "10.0.0.7"}, "http://10.0.0.7:3800"),
        ({"OBSERVER_HOST": "fe80::1"}, "http://[fe80::1]:3800"),
    ],
)
def test_inside_its_container_the_observer_is_found_by_its_own_settings(env: dict[str, str], url: str) -> None:
    """`kubectl exec … -- observer stats` needs no flags."""
    with observer_client(None, None, env) as client:
        assert client.url == url


def test_a_missing_certificate_is_explained() -> None:
    """TLS is verified against the observer's own certificate, which must be there."""
    with pytest.raises(AskError, match=r"nowhere\.pem"):
        observer_client(None, None, {"OBSERVER_TLS_CERT": "/nowhere.pem"})


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


@pytest.mark.parametrize(
    ("ms", "shown"),
    [(0, "0 ms"), (1.25, "1.2 ms"), (9.96, "10 ms"), (999.4, "999 ms"), (999.6, "1.0 s"), (120_000, "120 s"), (1e300, "1e+297 s")],
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


def test_over_tls_the_observers_own_certificate_is_trusted(tmp_path: Path) -> None:
    """`observer stats` and `doctor` in its container reach it by address, whatever name the certificate holds."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    make = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=observer.example -keyout {key} -out {certificate}"
    subprocess.run([openssl, *make.split()], check=True, capture_output=True)
    tls = {"OBSERVER_TLS_CERT": certificate, "OBSERVER_TLS_KEY": key}
    with running_observer(tmp_path, **tls) as observer:
        port = observer.url.rsplit(":", 1)[1]
        stats = run_command(tmp_path, "stats", **tls, OBSERVER_PORT=port)
        doctor = run_command(tmp_path, "doctor", **tls, OBSERVER_PORT=port)
        stranger = run_command(tmp_path, "stats", "--url", f"https://127.0.0.1:{port}")
    assert stats.stdout.startswith(f"observer at https://127.0.0.1:{port}\n")
    assert f"127.0.0.1:{port} is held by an observer" in doctor.stdout
    assert "CERTIFICATE_VERIFY_FAILED" in stranger.stderr


def test_a_strange_timestamp_is_shown_as_it_is() -> None:
    """An op from elsewhere must not end the tail."""
    assert op_line(an_op(timestamp="soon\x07"), Terminal(io.StringIO(), {})).startswith("soon\\x07  ok")
