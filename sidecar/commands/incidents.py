"""`observer incidents list | show | resolve | ignore | reopen | test-webhook`: the incidents of a running observer."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from sidecar.commands.observer_client import NotThereError, ObserverClient, observer_client
from sidecar.commands.terminal import Terminal, fitted, padded, visible, visible_json
from sidecar.commands.user_name import user_name
from sidecar.errors import ObserverError, SettingsError

_HEAD = ("fingerprint", "state", "count", "last seen (UTC)", "endpoint", "message")
_COLOURS = {"new": "red", "regressed": "red", "escalating": "red", "resolved": "green", "ignored": "dim"}
_HANDS = ("resolve", "ignore", "reopen")
_HELP = "`observer incidents --help`"
_LEAST_PREFIX = 4
_PAGE = {"limit": "1000"}
_MOST_HASHES = 5  # shown of `by_sig_hash`: they are long, and there may be one a failure


class _Incident(msgspec.Struct):
    """The fields listed of an incident; *state* may be missing in another version's answer."""

    fingerprint: str
    endpoint: str
    message: str
    count: int
    last_seen: str
    state: str = "?"
    error_type: str | None = None


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run the action and return 0. Raises AskError, SettingsError, ObserverError for an unknown incident."""
    _check(args)
    terminal = Terminal(sys.stdout, env)
    with observer_client(args.url, args.token, env) as client:
        if args.action == "list":
            _list(terminal, client, args)
        elif args.action == "show":
            _show(
                terminal, client.get(f"/incidents/{_resolve_fingerprint(client, args.fingerprint)}"), as_json=args.json
            )
        elif args.action == "test-webhook":
            _test_webhook(client)
            terminal.write("queued; see `observer outbox list` if it does not arrive")
        else:
            said = {"by": args.by or user_name(env), "note": args.note}
            path = f"/incidents/{_resolve_fingerprint(client, args.fingerprint)}/{args.action}"
            body = client.post(path, {name: text for name, text in said.items() if text})
            if args.json:
                terminal.write(visible_json(body.decode()))
            else:
                one: _Incident = client.decoded(body, _Incident)
                terminal.write(f"{one.fingerprint} is {visible(one.state)}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises SettingsError if an incident is missing, or named where none is wanted, or named too briefly."""
    named, command = args.fingerprint, f"`observer incidents {args.action}`"
    if args.action not in (*_HANDS, "show"):
        if named:
            raise SettingsError(f"{named!r} is not usable", f"{command} takes no incident", f"See {_HELP}")
    elif not named:
        raise SettingsError("no incident was named", f"{command} needs one", "Give its fingerprint")
    elif len(named) < _LEAST_PREFIX:
        raise SettingsError(
            f"{named!r} is too short to name an incident", f"it takes {_LEAST_PREFIX} characters", "Give more of it"
        )


def _test_webhook(client: ObserverClient) -> None:
    try:
        client.post("/webhook/test", {})
    except NotThereError as exc:
        raise ObserverError(
            "no webhook is set",
            f"the observer at {client.url} notifies nobody of incidents",
            "Set OBSERVER_WEBHOOK_URL there",
        ) from exc


def _list(terminal: Terminal, client: ObserverClient, args: argparse.Namespace) -> None:
    query = {**_PAGE, **({"state": args.state} if args.state else {})}
    if args.json:
        terminal.write(visible_json(client.get("/incidents", query).decode()))
        return
    rows = _all(client, query)
    if not rows:
        terminal.write("no incidents" + (f" in the state {visible(args.state)}" if args.state else ""))
        return
    same = Counter((row.endpoint, row.message) for row in rows)
    lines = [
        (
            visible(row.fingerprint),
            visible(row.state),
            f"{row.count:,}",
            visible(row.last_seen)[:19].replace("T", " "),
            visible(row.endpoint)[:40],
            visible(_message(row, is_unique=same[row.endpoint, row.message] == 1)),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (_HEAD, *lines)) for column in range(len(_HEAD) - 1)]
    for line in (_HEAD, *lines):
        text = "  ".join(padded(cell, width) for cell, width in zip(line, widths, strict=False)) + "  " + line[-1]
        text = fitted(text, terminal.width).rstrip() if terminal.width is not None else text.rstrip()
        colour = "bold" if line is _HEAD else _COLOURS.get(line[1])
        terminal.write(terminal.paint(text, colour) if colour else text)


def _message(row: _Incident, *, is_unique: bool) -> str:
    """Its message, with the error type in front where another incident of the endpoint has the same message."""
    return row.message if is_unique or not row.error_type else f"{row.error_type}: {row.message}"


def _all(client: ObserverClient, query: Mapping[str, str]) -> list[_Incident]:
    return client.listed("/incidents", "incidents", _Incident, query)


def _resolve_fingerprint(client: ObserverClient, wanted: str) -> str:
    """The fingerprint that equals or begins with *wanted*, with its version (`v2-`) or without.

    Raises ObserverError if there are several.
    """
    known = [row.fingerprint for row in _all(client, _PAGE)]
    found = [each for each in known if wanted in (each[: len(wanted)], each.partition("-")[2][: len(wanted)])]
    if wanted in known or not found:
        return wanted  # perhaps a former fingerprint, which the observer resolves
    if len(found) > 1:
        raise ObserverError(
            f"{len(found)} fingerprints begin with {wanted!r}", "it must name one incident", "Give more of it"
        )
    return found[0]


def _show(terminal: Terminal, body: bytes, *, as_json: bool) -> None:
    if as_json:
        terminal.write(visible_json(body.decode()))
        return
    said: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
    for name in (
        "fingerprint",
        "state",
        "kind",
        "endpoint",
        "error_type",
        "message",
        "count",
        "first_seen",
        "last_seen",
    ):
        if name in said:
            terminal.write(f"{name.replace('_', ' '):<12} {visible(str(said[name]))}")
    for name in ("by_source", "by_role", "by_city", "by_staffer", "by_sig_hash"):
        if said.get(name):
            most = _MOST_HASHES if name == "by_sig_hash" else None
            terminal.write(f"{name.replace('_', ' '):<12} {_counts(said[name].items(), most)}")
    _show_finding(terminal, said)
    for step in said.get("history", []):
        note = f": {visible(step['note'])}" if step.get("note") else ""
        terminal.write(
            f"{'history':<12} {step['at'][:19].replace('T', ' ')}  {step['state']} by {visible(step['by'])}{note}"
        )
    _write_all(terminal, "trace", said.get("trace_ids", []))
    _write_all(terminal, "sample", said.get("samples", []))


def _counts(counts: Iterable[tuple[str, int]], most: int | None) -> str:
    """The values with their counts; beyond *most*, those with the highest counts."""
    told = list(counts)
    shown = told if most is None or len(told) <= most else sorted(told, key=lambda each: -each[1])[:most]
    text = ", ".join(f"{visible(value)} {count}" for value, count in shown)
    return text if len(shown) == len(told) else f"{text} and {len(told) - len(shown):,} more"


def _show_finding(terminal: Terminal, said: Mapping[str, Any]) -> None:
    finding = said.get("finding")
    if not isinstance(finding, dict):
        return
    version, at = said.get("diagnosis_version", "?"), str(said.get("diagnosed_at", "?"))[:19].replace("T", " ")
    terminal.write(f"{'diagnosis':<12} version {version}, {at}, by {visible(str(finding.get('by')))}")
    for name in ("cause", "adjustment", "avoid", "when"):
        terminal.write(f"  {name:<10} {visible(str(finding.get(name, '')))}")


def _write_all(terminal: Terminal, label: str, values: Sequence[str]) -> None:
    for value in values:
        terminal.write(f"{label:<12} {visible(value)}")
