"""The folder of one run of the demo: the observer's data, the overseer's file, logs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folders and files of a run."""

    root: Path

    @property
    def observer(self) -> Path:
        """The observer's own folder."""
        return self.root / "_observer"

    @property
    def corrections(self) -> Path:
        """The overseer's file."""
        return self.root / "_kb" / "overseer_corrections.jsonl"

    @property
    def log(self) -> Path:
        """The observer's log."""
        return self.root / "observer.log"

    @property
    def gateway_log(self) -> Path:
        """The gateway process's error output."""
        return self.root / "gateway.log"


@contextmanager
def run_folder(data_dir: str | None) -> Iterator[RunFolder]:
    """The folder at *data_dir*; None: a temporary one, gone after the block."""
    with tempfile.TemporaryDirectory(prefix="observer-demo-") if data_dir is None else nullcontext(data_dir) as root:
        folder = RunFolder(Path(root))
        folder.corrections.parent.mkdir(parents=True, exist_ok=True)
        yield folder
