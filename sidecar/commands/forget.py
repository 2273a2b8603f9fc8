"""`observer forget --staffer ID`: removes one person's operations from the folder, and all that follows from them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Final

from sidecar import logs
from sidecar.commands.replay import data_folder, replayed
from sidecar.commands.terminal import Terminal, visible
from sidecar.errors import SettingsError
from sidecar.export.spool_forgetting import SpoolForgetting
from sidecar.store.folder_lock import FolderLock
from sidecar.store.forgetting import Forgetting

UNKNOWN: Final = 3
"""Exit status where nothing was known of the person: a slip of the pen, or all of it was removed before."""
_SPOOLS = {"spool": False, "langfuse-spool": True}  # whether a record contains its destination
_RECOUNTED = (
    "operations, incidents, rules and effects are counted anew without them, so figures of earlier reports change;"
    " what was counted of removed segments stays, without a name"
)
_NOT_OURS = "not touched: the corrections file, the gateway's log, what the collector and Langfuse received, and logs"


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Forget, replay, and report what was removed. Returns 0, or `UNKNOWN` if there was no record of the person.

    Raises StartError if the folder does not exist or is in use.
    """
    logs.configure_if_unset("text", "info")
    if not args.staffer:
        raise SettingsError("no staffer was named", "--staffer is empty", "Give the `staffer_id` of the one to forget")
    data_dir = data_folder(args.data_dir, env)
    lock = FolderLock(data_dir)
    lock.acquire()
    try:
        terminal = Terminal(sys.stdout, env)
        forgetting = Forgetting(data_dir, args.staffer)
        spooled = SpoolForgetting(args.staffer)
        forgetting.run()
        for name, addressed in _SPOOLS.items():
            spooled.folder(data_dir / name, addressed=addressed)
        replayed(data_dir, terminal)
        done = forgetting.forgotten
        is_unknown = done.is_nothing and not (spooled.spans or spooled.masked)
        terminal.write(
            f"no record of {visible(args.staffer)}: nothing was removed"
            if is_unknown
            else f"forgot {visible(args.staffer)}: {done.lines:,} operations and {spooled.spans:,} waiting spans"
            f" overwritten, the id masked in {done.masked + spooled.masked:,} other places and {done.rows:,} saved rows"
        )
        if done.lines:
            terminal.write(_RECOUNTED)
        if done.files:
            terminal.write(f"removed {done.files:,} damaged or unfinished state files")
        terminal.write(_NOT_OURS)
    finally:
        lock.release()
    return UNKNOWN if is_unknown else 0
