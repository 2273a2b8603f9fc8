"""`observer playbook list | show | approve | retire | restore | export | import`: people's access to the playbook."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from sidecar.commands.observer_client import ObserverClient, observer_client
from sidecar.commands.playbook_text import MARKDOWN_TITLE, approved_lines, markdown, summary_lines, told_lines
from sidecar.commands.private_file import write_private
from sidecar.commands.terminal import Terminal, visible_json
from sidecar.commands.user_name import user_name
from sidecar.errors import ObserverError, SettingsError

FORMAT: Final = "observer.playbook/1"
_TAKES = {"list": (0, 0, "none"), "export": (0, 0, "none"), "import": (1, 1, "one file"), "show": (1, 1, "one entry")}
_ENTRIES = (1, 10**6, "one entry or several")
"""How many names an action takes, at least and at most, and in words."""
_DONE = {"approve": "approved", "retire": "retired", "restore": "restored"}


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run the action and return 0. Raises AskError, SettingsError, ObserverError."""
    _check(args)
    terminal = Terminal(sys.stdout, env)
    with observer_client(args.url, args.token, env) as client:
        if args.action == "import":
            _import(terminal, client, args)
        elif args.action == "export":
            _export(terminal, client, args)
        elif args.action in _DONE:
            _decide(terminal, client, args, env)
        else:
            _print(terminal, client, args)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises SettingsError if too many or too few entries or files are named."""
    given, (least, most, words) = len(args.names), _TAKES.get(args.action, _ENTRIES)
    if not least <= given <= most:
        raise SettingsError(
            f"`observer playbook {args.action}` was given {given or 'no'} name{'' if given == 1 else 's'}",
            f"it takes {words}",
            "See `observer playbook --help`",
        )


def _entries(client: ObserverClient, as_of: str | None) -> list[dict[str, Any]]:
    return client.listed("/playbooks", "playbooks", dict[str, Any], {"as_of": as_of} if as_of else {})


def _print(terminal: Terminal, client: ObserverClient, args: argparse.Namespace) -> None:
    if args.action == "show":
        body = client.get(f"/playbooks/{_safe(args.names[0])}")
        lines = [visible_json(body.decode())] if args.json else told_lines(client.decoded(body, dict[str, Any]))
    else:
        entries = [each for each in _entries(client, args.as_of) if args.state in (None, each.get("state"))]
        lines = [visible_json(msgspec.json.encode(entries).decode())] if args.json else summary_lines(entries)
    for line in lines:
        terminal.write(line)


def _decide(terminal: Terminal, client: ObserverClient, args: argparse.Namespace, env: Mapping[str, str]) -> None:
    for name in args.names:
        said = {"by": args.by or user_name(env), "note": args.note, "version": args.version}
        body = {name: value for name, value in said.items() if value not in (None, "")}
        done = client.decoded(client.post(f"/playbooks/{_safe(name)}/{args.action}", body), dict[str, Any])
        terminal.write(f"{name} {_DONE[args.action]}: {done.get('state')} now")
        for line in approved_lines(done) if args.action == "approve" else ():
            terminal.write(line)


def _export(terminal: Terminal, client: ObserverClient, args: argparse.Namespace) -> None:
    entries = _entries(client, args.as_of)
    is_json = (args.output or "").lower().endswith(".json") if args.format is None else args.format == "json"
    if is_json:
        document = msgspec.json.format(msgspec.json.encode({"format": FORMAT, "entries": entries}), indent=1)
        text = document.decode() + "\n"
    else:
        text = markdown(entries)
    if args.output is None:
        terminal.write(text.rstrip("\n"))
        return
    try:
        write_private(Path(args.output), text.encode())
    except OSError as exc:
        raise ObserverError(f"{args.output} was not written", exc.strerror or str(exc), "Name another file") from exc
    terminal.write(f"{len(entries)} entries written to {args.output}")


def _import(terminal: Terminal, client: ObserverClient, args: argparse.Namespace) -> None:
    try:
        content = Path(args.names[0]).read_bytes()
    except OSError as exc:
        raise ObserverError(f"{args.names[0]} cannot be read", exc.strerror or str(exc), "Name another file") from exc
    _check_json(args.names[0], content)
    done = client.decoded(client.post("/playbooks/import", content), dict[str, Any])
    imported = done.get("imported", [])
    terminal.write(f"{len(imported)} imported as candidates, {done.get('known', 0)} known already")
    if imported:
        terminal.write(f"agents are told them after: observer playbook approve {' '.join(map(str, imported))}")


def _check_json(name: str, content: bytes) -> None:
    """Raises SettingsError if the file *name* is not JSON: the observer need not be asked."""
    try:
        json.loads(content)
    except (ValueError, RecursionError) as exc:
        is_markdown = content.lstrip().startswith(MARKDOWN_TITLE.encode())
        why = "it is an export in Markdown" if is_markdown else str(exc)
        fix = "Import a file of `observer playbook export --format json`"
        raise SettingsError(f"{name} is not JSON", why, fix) from exc


def _safe(name: str) -> str:
    if not name or not all(each.isalnum() or each == "-" for each in name):
        raise SettingsError(
            f"{name!r} is not an entry's id", "ids look like pb-0123456789ab", "See `observer playbook list`"
        )
    return name
