"""Writes a journal as an observer would: the events of `benchmarks.events`, one per line.

`python -m benchmarks.journal FOLDER LINES`: for measurements of the start and of `observer replay`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from benchmarks.events import bodies
from sidecar.clock import rfc3339_ms
from sidecar.normalize import Normalizer
from sidecar.receivers.event_fields import event_op
from sidecar.redaction import Redactor
from sidecar.store.journal_file import AppendFile, sealed

_GROUP = 1000  # lines per append
_FIRST_NS = 1_760_000_000_000_000_000


def write_journal(data_dir: Path, lines: int, *, with_ids: bool = False) -> None:
    """Append *lines* ops to the journal in *data_dir*; *with_ids* gives each an `event_id`."""
    events = [msgspec.json.decode(body) for body in bodies("event")]
    normalizer, encode = Normalizer(Redactor(())), msgspec.json.Encoder().encode
    file = AppendFile(data_dir / "ops.jsonl")
    group: list[bytes] = []
    for number in range(lines):
        event = events[number % len(events)]
        if with_ids:
            event = {**event, "event_id": f"event-{number}"}
        group.append(sealed(encode(event_op(event, rfc3339_ms(_FIRST_NS + number * 10**6), normalizer))))
        if len(group) == _GROUP:
            file.append(b"".join(group))
            group.clear()
    if group:
        file.append(b"".join(group))
    file.sync()
    file.close()


if __name__ == "__main__":
    write_journal(Path(sys.argv[1]), int(sys.argv[2]), with_ids="--ids" in sys.argv)
