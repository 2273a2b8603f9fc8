"""`observer tail`: prints the last operations, then each new one as it settles, across restarts of the observer."""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping

import msgspec

from sidecar.commands.observer_client import AskError, AwayError, ObserverClient, observer_client
from sidecar.commands.op_line import op_line
from sidecar.commands.sse import Event, EventParser
from sidecar.commands.terminal import Terminal, visible_json
from sidecar.model import ObservedOp

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_REMEMBERED = 20_000  # op ids, so that none is printed twice
_PAGE, _MOST_PAGES = 1000, 10


class _Page(msgspec.Struct):
    ops: list[msgspec.Raw]
    next_cursor: str = ""


class _Missed(msgspec.Struct):
    missed: int = 0


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Follow until Ctrl-C or until the reader leaves; both return 0. Raises AskError if no observer answers first."""
    filters = {"success": "false"} if args.failures else {}
    filters |= {name: value for name in ("source", "endpoint") if (value := getattr(args, name)) is not None}
    out, notes = Terminal(sys.stdout, env), Terminal(sys.stderr, env)
    with observer_client(args.url, args.token, env) as client:
        tail = Tail(client, filters, out, notes, as_json=args.json)
        try:
            tail.follow(args.n)
        except KeyboardInterrupt:
            return 0
    return 0


class Tail:
    """Prints ops that match *filters* to *out*, once each, and changes of the connection to *notes*."""

    def __init__(
        self,
        client: ObserverClient,
        filters: Mapping[str, str],
        out: Terminal,
        notes: Terminal,
        *,
        as_json: bool,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._filters = filters
        self._out = out
        self._notes = notes
        self._as_json = as_json
        self._pause = pause
        self._seen = _Seen()
        self._connected_before = False
        self._pause_s = 0.0

    def follow(self, recent: int) -> None:
        """Print the last *recent* ops, then follow without end. Raises AskError, BrokenPipeError, KeyboardInterrupt."""
        while True:
            try:
                for event in self._session(recent):
                    self._take(event)
                why = "it ended the stream"
            except AwayError as exc:
                if not self._connected_before:
                    raise
                why = str(exc.args[1])
            if not self._pause_s:
                self._note(f"connection lost ({why}); trying again")
            self._pause_s = min(max(_FIRST_PAUSE_S, self._pause_s * 2), _LONGEST_PAUSE_S)
            self._out.flush()
            self._pause(self._pause_s)

    def _session(self, recent: int) -> Iterator[Event]:
        """The events of one connection. It opens the stream before it reads the past, so that nothing is missed."""
        parser = EventParser()
        with self._client.stream("/ops/stream", self._filters) as chunks:
            if self._connected_before:
                self._note("connected again")
                self._catch_up()
            else:
                self._begin(recent)
            self._connected_before, self._pause_s = True, 0.0
            self._out.flush()
            for chunk in chunks:
                yield from parser.feed(chunk)
                self._out.flush()  # also after a mere keep-alive: the reader may have left

    def _begin(self, recent: int) -> None:
        newest_first = self._page(max(recent, 1)).ops  # at least one: it marks where the past ends
        for number, raw in reversed(list(enumerate(newest_first))):
            self._print(raw, silent=number >= recent)

    def _catch_up(self) -> None:
        """Print what arrived during a disconnection: everything newer than the newest op seen."""
        missed: list[msgspec.Raw] = []
        cursor = ""
        for _ in range(_MOST_PAGES):
            try:
                page = self._page(_PAGE, cursor)
            except AwayError:
                raise
            except AskError:  # the cursor's op has left the ring, so nothing older is there either
                break
            for raw in page.ops:
                if self._op(raw).op_id in self._seen:
                    cursor = ""
                    break
                missed.append(raw)
            else:
                cursor = page.next_cursor
            if not cursor:
                break
        for raw in reversed(missed):
            self._print(raw)

    def _page(self, limit: int, cursor: str = "") -> _Page:
        query = {**self._filters, "limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        page: _Page = self._client.decoded(self._client.get("/ops", query), _Page)
        return page

    def _take(self, event: Event) -> None:
        if event.name == "op":
            self._print(msgspec.Raw(event.data))
        elif event.name == "missed":
            missed: _Missed = self._client.decoded(event.data, _Missed)
            self._note(f"{missed.missed} operations came too fast to be shown; they are in the journal")

    def _op(self, raw: msgspec.Raw) -> ObservedOp:
        op: ObservedOp = self._client.decoded(bytes(raw), ObservedOp)
        return op

    def _print(self, raw: msgspec.Raw, *, silent: bool = False) -> None:
        op = self._op(raw)
        if op.op_id is not None:
            if op.op_id in self._seen:
                return
            self._seen.add(op.op_id)
        if not silent:
            self._out.write(
                visible_json(bytes(raw).decode()) if self._as_json else op_line(op, self._out, marks_again=True)
            )

    def _note(self, text: str) -> None:
        self._out.flush()
        self._notes.write(self._notes.paint(f"-- {text}", "yellow"))
        self._notes.flush()


class _Seen:
    """The last ids; the oldest are evicted."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._order: deque[str] = deque()

    def __contains__(self, op_id: object) -> bool:
        return op_id in self._ids

    def add(self, op_id: str) -> None:
        self._ids.add(op_id)
        self._order.append(op_id)
        if len(self._order) > _REMEMBERED:
            self._ids.discard(self._order.popleft())
