"""`observer forget --staffer ID`: what one person did is removed from the folder, and all that follows from it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from sidecar import logs
from sidecar.commands.replay import data_folder, replayed
from sidecar.commands.terminal import Terminal, visible
from sidecar.errors import SettingsError
from sidecar.store.folder_lock import FolderLock
from sidecar.store.forgetting import Forgetting

_NOT_OURS = (
    "not touched: the corrections file, the gateway's log, the collector and Langfuse, what waits for them in spool/"
    " and langfuse-spool/, and logs"
)


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Forget, replay, say what was removed, and give 0. Raises StartError where the folder is not there or in use."""
    logs.configure_if_unset("text", "info")
    if not args.staffer:
        raise SettingsError("no staffer was named", "--staffer is empty", "Give the `staffer_id` of the one to forget")
    data_dir = data_folder(args.data_dir, env)
    lock = FolderLock(data_dir)
    lock.acquire()
    try:
        terminal = Terminal(sys.stdout, env)
        forgetting = Forgetting(data_dir, args.staffer)
        forgetting.run()
        replayed(data_dir, terminal)
        done = forgetting.forgotten
        terminal.write(
            f"forgot {visible(args.staffer)}: {done.lines:,} operations overwritten, the id masked in {done.masked:,}"
            f" other places and {done.rows:,} saved rows"
        )
        if done.files:
            terminal.write(f"removed {done.files:,} damaged or unfinished state files")
        terminal.write(_NOT_OURS)
    finally:
        lock.release()
    return 0
