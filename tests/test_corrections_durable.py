"""Corrections into the real journal: each row once over kill -9, over a full disk, over a stalled one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor

from sidecar.clock import SystemClock
from sidecar.model import ObservedOp, SpanRef
from sidecar.normalize import Normalizer
from sidecar.protocols import JournalFile
from sidecar.receivers.corrections_tailer import CorrectionsTailer
from sidecar.redaction import Redactor
from sidecar.spans.provider import export_sampler, our_resource, tracer_provider
from sidecar.spans.recorder import OpRecorder
from sidecar.spans.span_processor import OpSpanProcessor
from sidecar.store.commit_log import CommitLog
from sidecar.store.journal_file import AppendFile
from sidecar.store.journal_reader import JournalReader
from sidecar.store.state import StateStore
from tests.corrections_bench import rows
from tests.fakes import KeptOps

_ROOT = Path(__file__).resolve().parents[1]


def _no_failures(sig_hash: str | None, task_class: str | None) -> list[SpanRef]:
    return []


@asynccontextmanager
async def _tailing(
    folder: Path, file: JournalFile | None = None, commit_timeout_s: float = 30.0
) -> AsyncIterator[tuple[CorrectionsTailer, CommitLog[ObservedOp]]]:
    """The tailer before the real recorder, span processor and commit log."""
    journal: CommitLog[ObservedOp] = CommitLog(
        "ops",
        lambda: file or AppendFile(folder / "ops.jsonl"),
        msgspec.json.Encoder().encode,
        KeptOps(),
        SystemClock(),
        max_bytes=1 << 24,
        sync_every_s=None,
        commit_timeout_s=commit_timeout_s,
    )
    processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call] # the SDK leaves it untyped
    processors.add_span_processor(OpSpanProcessor(journal, SystemClock()))
    recorder = OpRecorder(tracer_provider(our_resource("test", {}), export_sampler("always_on", 1.0), processors))
    tailer = CorrectionsTailer(
        folder / "corrections.jsonl", recorder, Normalizer(Redactor()), SystemClock(), _no_failures
    )
    async with asyncio.TaskGroup() as tasks:
        await journal.start(tasks)
        try:
            yield tailer, journal
        finally:
            tailer.close()
            await journal.stop()


def _journalled(folder: Path) -> list[str | None]:
    return [op.correction for op, _ in JournalReader(folder / "ops.jsonl").scan(ObservedOp)]


async def _one_life(folder: Path, *, saves: bool, ends: bool) -> None:
    """What a process does: load, restore, tail, perhaps save; then it *ends*, by kill -9."""
    store = StateStore(folder, SystemClock())
    store.open()
    body = store.load("cursors").get("corrections")
    cursor, offset = msgspec.json.decode(body) if body else ({}, 0)
    async with _tailing(folder) as (tailer, journal):
        tailer.load(cursor)
        for op, _ in JournalReader(folder / "ops.jsonl").scan(ObservedOp, offset):
            tailer.restore(op)
        await tailer.tail()
        if saves:
            saved = msgspec.json.encode((tailer.cursor(), journal.settled_offset))
            await store.save_soon({"cursors": {"corrections": saved}})
        if ends:
            os.kill(os.getpid(), signal.SIGKILL)
    store.close()


_LIFE = """
import asyncio, sys
from pathlib import Path
from tests.test_corrections_durable import _one_life
asyncio.run(_one_life(Path(sys.argv[1]), saves=sys.argv[2] == "saves", ends=True))
"""


async def test_kill_9_between_commit_and_save_repeats_and_loses_nothing(tmp_path: Path) -> None:
    """Six lives that end by SIGKILL, with and without a saved cursor, record each row once, in order."""
    texts = []
    for number, saves in enumerate(["not", "saves", "not", "not", "saves", "not"]):
        texts += [f"{number}a", f"{number}b", "alike"]
        with (tmp_path / "corrections.jsonl").open("ab") as file:
            file.write(rows(f"{number}a", f"{number}b", "alike"))
        killed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _LIFE, str(tmp_path), saves],
            cwd=_ROOT,
            check=False,
            capture_output=True,
        )
        assert killed.returncode == -9, killed.stderr
        assert _journalled(tmp_path) == texts
    await _one_life(tmp_path, saves=True, ends=False)
    assert _journalled(tmp_path) == texts


class FullThenFree(AppendFile):
    """A journal whose disk is full for the first *failures* writes."""

    failures = 2

    def append(self, data: bytes) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        super().append(data)


async def test_full_disk_delays_rows_and_repeats_none(tmp_path: Path) -> None:
    """Rows that the journal refused are in it once the disk has room, each once."""
    texts = [str(number) for number in range(300)]
    (tmp_path / "corrections.jsonl").write_bytes(rows(*texts))
    async with _tailing(tmp_path, FullThenFree(tmp_path / "ops.jsonl")) as (tailer, _):
        calls = [await tailer.tail() for _ in range(4)]
        assert sum(calls) == 300
        assert tailer.cursor()["position"]["offset"] == (tmp_path / "corrections.jsonl").stat().st_size
    written = _journalled(tmp_path)
    assert sorted(map(str, written)) == sorted(texts)


class Stalled(AppendFile):
    """A journal whose writes hang until `free` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.free = threading.Event()

    def append(self, data: bytes) -> None:
        self.free.wait()
        super().append(data)


async def test_stalled_disk_repeats_nothing_when_it_comes_back(tmp_path: Path) -> None:
    """The tail gives up waiting, and what the disk wrote after all is not recorded again."""
    (tmp_path / "corrections.jsonl").write_bytes(rows("a", "b"))
    file = Stalled(tmp_path / "ops.jsonl")
    async with _tailing(tmp_path, file, commit_timeout_s=0.01) as (tailer, _):
        assert await tailer.tail() == 0
        assert tailer.cursor()["position"] is None
        file.free.set()
        while not await tailer.tail():
            pass
        assert tailer.recorded == 2
    assert _journalled(tmp_path) == ["a", "b"]


async def test_journalled_op_names_its_row(tmp_path: Path) -> None:
    """The op in the file carries everything, and ids of the span that it is."""
    (tmp_path / "corrections.jsonl").write_bytes(b'{"correction": "\\ud800 do it", "sig_hash": "s", "more": [1]}\n')
    async with _tailing(tmp_path) as (tailer, _):
        assert await tailer.tail() == 1
    ((op, _),) = JournalReader(tmp_path / "ops.jsonl").scan(ObservedOp)
    assert (op.correction, op.sig_hash, op.extra) == ("\ufffd do it", "s", {"more": "[1]"})
    assert op.trace_id
    assert op.span_id
    assert op.event_id
    assert op.event_id.startswith("correction:")
