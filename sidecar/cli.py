"""The command line: `observer run | demo | stats | tail | incidents | report | playbook | mcp | outbox | …`.

The environment is read here and nowhere else; `commands.arguments` says what can be typed. A command's module is
imported only when it is called, so that `--help` and small commands stay fast. Exit status: 0 success, 1 failed,
64 wrong settings or flags, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence

from sidecar.commands.arguments import COMMANDS, command_parser
from sidecar.commands.process import load_without_terminal_parts
from sidecar.errors import ObserverError, SettingsError

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 64, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv* (default: the process's arguments) and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _dispatch(arguments, os.environ)
        finally:
            sys.stdout.flush()  # flush here, where a closed pipe can be told from a failure
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return 0
    except (ObserverError, BaseExceptionGroup) as exc:
        return _report(exc)


def _discard_output() -> None:
    """Redirect stdout to /dev/null: flushing the rest at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str], env: Mapping[str, str]) -> int:
    parser, parsers = command_parser()
    args, unknown = parser.parse_known_args(arguments)
    if args.command is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    if unknown:
        raise _unknown(unknown[0], args.command, parsers[args.command])
    if args.command == "run":
        load_without_terminal_parts()  # before the module, which imports the parts left out
    module = importlib.import_module(COMMANDS[args.command][0])
    status: int = _demo(module.main, args, env) if args.command == "demo" else module.main(args, env)
    return status


def _demo(start: Callable[..., int], args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Start the demo, which knows nothing of this command line."""
    return start(args.seconds, plain=args.plain, port=args.port, data_dir=args.data_dir, seed=args.seed, env=env)


def _unknown(flag: str, command: str, parser: argparse.ArgumentParser) -> SettingsError:
    known = re.findall(r"(?<=[ \[])--?[a-z][a-z-]*", parser.format_help())
    near = difflib.get_close_matches(flag.partition("=")[0], known, n=1)
    fix = f"Did you mean {near[0]}?" if near else f"See `observer {command} --help`"
    kind = "flag" if flag.startswith("-") else "argument"
    return SettingsError(f"{flag!r} is not usable", f"`observer {command}` has no such {kind}", fix)


def _report(failure: BaseException) -> int:
    """Print one line per error of ours, a traceback for unexpected ones; return the exit status."""
    status = EXIT_FAILED
    for leaf in _leaves(failure):
        if isinstance(leaf, ObserverError | TimeoutError):
            print(f"observer: {leaf}", file=sys.stderr)
        else:
            traceback.print_exception(leaf)
        if isinstance(leaf, SettingsError):
            status = EXIT_USAGE
    return status


def _leaves(failure: BaseException) -> Iterator[BaseException]:
    if isinstance(failure, BaseExceptionGroup):
        for inner in failure.exceptions:
            yield from _leaves(inner)
    else:
        yield failure
