"""`observer outbox list | retry | drop`: the posts in `state.db`, also while an observer is running."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from sidecar.clock import rfc3339_ms
from sidecar.commands.terminal import Terminal, fitted, padded, visible, visible_json
from sidecar.errors import ObserverError, SettingsError
from sidecar.settings import Settings
from sidecar.store import outbox_rows
from sidecar.store.outbox_table import existing_outbox

_HEAD = ("id", "state", "kind", "to", "tries", "since (UTC)", "last error")
_DONE = {"retry": "due now", "drop": "dropped"}


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run the action and return 0. Raises StartError if there is no outbox, ObserverError for an unknown post."""
    if args.action != "list" and not args.id and not args.all:
        raise SettingsError(
            "no post was named", f"`observer outbox {args.action}` needs to know which", "Give --id N, or --all"
        )
    data_dir = Path(args.data_dir or env.get("OBSERVER_DATA_DIR") or Settings().data_dir)
    with existing_outbox(data_dir) as connection:
        rows = outbox_rows.listed(connection, args.id)
        _require(args.id, rows)
        numbers = [row["number"] for row in rows]
        if args.action == "retry":
            outbox_rows.retry(connection, numbers, time.time_ns())
        elif args.action == "drop":
            outbox_rows.drop(connection, numbers, time.time_ns())
    terminal = Terminal(sys.stdout, env)
    if args.json:
        terminal.write(visible_json(msgspec.json.encode([_shown(row) for row in rows]).decode()))
    elif args.action == "list":
        _print(terminal, rows)
    else:
        terminal.write(f"{_DONE[args.action]}: {len(rows)} {'post' if len(rows) == 1 else 'posts'}")
    return 0


def _require(wanted: Sequence[int] | None, rows: Sequence[Mapping[str, Any]]) -> None:
    missing = sorted(set(wanted or ()) - {row["number"] for row in rows})
    if missing:
        raise ObserverError(
            f"there is no post {missing[0]}", "it was delivered or dropped, or never was", "See `observer outbox list`"
        )


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row for JSON output; times are RFC 3339, *due* is null if due now."""
    return {
        "id": row["number"],
        "state": row["state"],
        "kind": row["kind"],
        "url": row["url"],
        "key": row["key"],
        "attempts": row["attempts"],
        "since": rfc3339_ms(row["since_ns"]),
        "due": rfc3339_ms(row["due_ns"]) if row["state"] == "waiting" and row["due_ns"] else None,
        "error": row["error"],
        "entry": msgspec.Raw(row["body"]),
    }


def _print(terminal: Terminal, rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        terminal.write("no waiting posts, no dead letters")
        return
    lines = [
        (
            str(row["number"]),
            row["state"],
            visible(row["kind"]),
            visible(row["url"]),
            str(row["attempts"]),
            rfc3339_ms(row["since_ns"])[:19].replace("T", " "),
            visible(row["error"]),
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (_HEAD, *lines)) for column in range(len(_HEAD) - 1)]
    for line in (_HEAD, *lines):
        text = "  ".join(padded(cell, width) for cell, width in zip(line, widths, strict=False)) + "  " + line[-1]
        text = fitted(text, terminal.width).rstrip() if terminal.width is not None else text.rstrip()
        colour = "bold" if line is _HEAD else "red" if line[1] == "dead" else None
        terminal.write(terminal.paint(text, colour) if colour else text)
