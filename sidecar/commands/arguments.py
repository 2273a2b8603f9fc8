"""The arguments of the command line: its commands, their flags and help texts."""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
from collections.abc import Callable
from typing import Any, NoReturn, get_args

from sidecar.commands.flags import add_settings
from sidecar.errors import SettingsError
from sidecar.model import IncidentState

_WIDEST_HELP = 112

_ABOUT = """\
The third-party witness beside an AI-agent gateway: it sees every operation,
keeps what happened, and finds out why things fail."""
_AFTER = """\
start here:
  observer demo      a gateway, agents and the observer, all on this machine
  observer doctor    check settings, gateway, model, collector and folders
  observer run       watch the gateway at GATEWAY_URL
"""
_SETTINGS_NOTE = "Each setting is a flag and an environment variable; the flag wins."
COMMANDS = {
    "run": ("sidecar.commands.run", "watch the gateway until told to stop"),
    "demo": ("sidecar.demo.runner", "show the observer at work with a small gateway and agents of its own"),
    "stats": ("sidecar.commands.stats", "print what a running observer has counted"),
    "tail": ("sidecar.commands.tail", "follow the operations that a running observer sees"),
    "incidents": ("sidecar.commands.incidents", "list incidents and why they happen; resolve, ignore, reopen"),
    "playbook": ("sidecar.commands.playbook", "see, approve, retire, export and import what was learnt"),
    "report": (
        "sidecar.commands.report",
        "print what was learnt and whether it helped; --html writes a page with charts",
    ),
    "mcp": ("sidecar.commands.mcp", "serve advice, incidents and the playbook to agents over MCP"),
    "outbox": ("sidecar.commands.outbox", "list, retry or drop posts that the gateway has not accepted"),
    "replay": ("sidecar.commands.replay", "rebuild all derived state from the journals"),
    "forget": ("sidecar.commands.forget", "erase a person (`staffer_id`) from the journals and all derived state"),
    "doctor": ("sidecar.commands.doctor", "check everything an observer needs, and say how to fix it"),
}
"""Command → its module, and what it does."""


class Parser(argparse.ArgumentParser):
    """Reports errors in the form of all our errors, with our exit status."""

    def error(self, message: str) -> NoReturn:
        """Raise SettingsError."""
        raise SettingsError("the command line is not usable", message, f"See `{self.prog} --help`")


class _Version(argparse.Action):
    """Prints the version, which is looked up only on demand."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print and exit."""
        version = importlib.import_module("sidecar.version").our_version()
        sys.stdout.write(f"observer {version} (Python {sys.version.split()[0]})\n")
        parser.exit()


class _Help(argparse.RawDescriptionHelpFormatter):
    """Like argparse's formatter, but keeps line breaks in an option's help: a setting's second line is its variable."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, _WIDEST_HELP) - 2
        super().__init__(prog, max_help_position=28, width=width)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [line for part in text.splitlines() for line in super(_Help, self)._split_lines(part, width)]


def command_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command line, and that of each command by name."""
    parser = Parser(prog="observer", description=_ABOUT, epilog=_AFTER, allow_abbrev=False, formatter_class=_Help)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=Parser)
    parsers = {
        name: commands.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False, formatter_class=_Help
        )
        for name, (_, about) in COMMANDS.items()
    }
    _add_doctor(parsers["doctor"])
    _add_demo(parsers["demo"])
    for name in ("run", "doctor"):
        parsers[name].usage = f"observer {name} [OPTION ...] [--SETTING VALUE ...]"
        parsers[name].epilog = "\n".join(filter(None, [parsers[name].epilog, _SETTINGS_NOTE]))
        add_settings(parsers[name])
    for name in ("stats", "tail", "incidents", "report", "playbook", "mcp"):
        _add_address(parsers[name])
    _add_stats(parsers["stats"])
    _add_tail(parsers["tail"])
    _add_incidents(parsers["incidents"])
    _add_report(parsers["report"])
    _add_playbook(parsers["playbook"])
    _add_mcp(parsers["mcp"])
    _add_outbox(parsers["outbox"])
    _add_replay(parsers["replay"])
    _add_forget(parsers["forget"])
    return parser, parsers


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="check settings and folders only, ask no one")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.epilog = "Exit status: 0 nothing failed, 1 something failed, 64 wrong settings."


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="N",
        help="end by itself after N seconds [default: run until Ctrl-C; 40 s if the output is not a terminal]",
    )
    parser.add_argument("--plain", action="store_true", help="print lines, also where a full screen is possible")
    parser.add_argument(
        "--port", type=_whole(65535), metavar="N", help="the observer's port [default 3800, or any if that is taken]"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="keep journal and log there [default: removed at the end]")
    parser.add_argument("--seed", type=_whole(2**31), default=1, metavar="N", help="the agents' dice [default 1]")
    parser.epilog = "Nothing else is needed; LAKEHOUSE_URL and OTEL_EXPORTER_OTLP_ENDPOINT are\nused if they are set."


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", metavar="URL", help="the observer to ask [from OBSERVER_PORT; default http://127.0.0.1:3800]"
    )
    parser.add_argument("--token", metavar="TOKEN", help="a token with the scope `read` [OBSERVER_TOKEN]")


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the observer's JSON answer as it is")


def _add_tail(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-n", type=_whole(1000), default=10, metavar="N", help="recent operations to begin with [default 10]"
    )
    parser.add_argument("--failures", action="store_true", help="failures only")
    parser.add_argument("--source", metavar="S", help="only from this source: mcp, scenario, langfuse, …")
    parser.add_argument("--endpoint", metavar="E", help="only this endpoint")
    parser.add_argument("--json", action="store_true", help="print each operation as a line of JSON")
    parser.epilog = (
        "`again` before the source: an operation that was shown before, of which more is known\n"
        "now, by another report or a score. Both lines are one operation.\n"
        "Times are local. Ctrl-C ends it. Colours appear on a terminal only, and never with NO_COLOR.\n"
        "When the observer restarts, tail connects again and goes on where it was."
    )


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", metavar="FILE", help="write a page there too: one file, nothing else needed")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.epilog = (
        "The JSON object has `operations` and `failures` (of those in memory), `operations_in_all`;\n"
        "`asked` and `told` (since the observer's start), `tasks`; `measured` (the groups `shown` and\n"
        "`withheld`, `effect` from -1 to 1 between `low` and `high`) and `avoided` (failures: `value`,\n"
        "`low`, `high`), null while not known; `entries` as in /playbooks, the best first;\n"
        "`incidents` as in /incidents, the largest first; `times`: failures by column of `width_s`."
    )


def _add_playbook(parser: argparse.ArgumentParser) -> None:
    actions = ["list", "show", "approve", "retire", "restore", "export", "import"]
    parser.add_argument("action", choices=actions, help="what to do")
    parser.add_argument("names", nargs="*", metavar="ID|FILE", help="entries, or the file to import")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the export there")
    _add_hand(parser)
    parser.add_argument("--state", choices=["candidate", "active", "retired"], help="list: only entries in this state")
    parser.add_argument(
        "--version",
        type=_whole(10**9),
        metavar="N",
        help="decide on this version [the latest]; `approve` prints its words",
    )
    parser.add_argument("--as-of", metavar="TIME", help="list and export as it was then (RFC 3339)")
    parser.add_argument(
        "--format",
        choices=["markdown", "json"],
        help="of the export [json if FILE ends with .json, else markdown]; json is imported",
    )
    parser.add_argument("--json", action="store_true", help="print the observer's JSON answer")
    parser.epilog = "Decisions need a token with the scope `admin` where the observer has tokens."


def _add_mcp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--http", type=_whole(65535), metavar="PORT", help="streamable HTTP on 127.0.0.1 instead of stdio; 0: any port"
    )
    parser.epilog = "Needs the package `mcp`: pip install '.[mcp]'. The token's scopes: advice, read."


def _add_incidents(parser: argparse.ArgumentParser) -> None:
    actions = ["list", "show", "resolve", "ignore", "reopen", "test-webhook"]
    parser.add_argument("action", choices=actions, help="what to do; all but list and show need the scope `admin`")
    parser.add_argument("fingerprint", nargs="?", default="", help="which incident; its beginning is enough")
    states = ", ".join(get_args(IncidentState))
    parser.add_argument("--state", type=_states, help=f"list: only those in these states: {states}")
    _add_hand(parser)
    parser.add_argument("--json", action="store_true", help="print the observer's JSON answer as it is")
    parser.epilog = "What is reopened is `ongoing`, whatever it was."


def _states(text: str) -> str:
    known = get_args(IncidentState)
    wrong = [state for state in text.split(",") if state not in known]
    if wrong:
        raise argparse.ArgumentTypeError(
            f"{wrong[0]!r} is no state: choose from {', '.join(known)}, several with commas"
        )
    return text


def _add_hand(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", metavar="NAME", default="", help="who decides [your user name]")
    parser.add_argument("--note", "--why", metavar="TEXT", help="kept with the decision")


def _add_outbox(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["list", "retry", "drop"], help="what to do with posts, waiting or dead")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--id", type=_whole(10**11), action="append", metavar="N", help="this post; may be repeated")
    which.add_argument("--all", action="store_true", help="all of them")
    _add_data_dir(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON array instead of lines")
    parser.epilog = "Works beside a running observer, which notices within seconds, and without one."


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data-dir", metavar="DIR", help="the observer's folder [OBSERVER_DATA_DIR]")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    _add_data_dir(parser)
    parser.add_argument("--dump", metavar="FILE", help="write the derived state there as JSON, to be compared")
    parser.epilog = (
        "Stop the observer first. Asks no model, posts nothing; the outbox stays as it is.\n"
        "The same journals give the same state."
    )


def _add_forget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--staffer", required=True, metavar="ID", help="the `staffer_id` to erase")
    _add_data_dir(parser)
    parser.epilog = (
        "Stop the observer first. If it is interrupted, running it again finishes the work.\n"
        "Exit status: 0 erased, 1 failed, 3 no record of that person."
    )


def _whole(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 12 and int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most}")
        return int(text)

    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds
