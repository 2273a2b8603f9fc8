"""Checks the invariants after a round, from the journal's bytes, the ledger and the collector alone."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import journal
from tests.crash.events import is_intact
from tests.crash.faults import Scene
from tests.crash.journal import segments, whole_lines


@dataclass
class Verdict:
    """Violations by kind; all lists are empty if the round went well."""

    lost: list[str] = field(default_factory=list)  # acknowledged, but not in the journal
    doubled: list[str] = field(default_factory=list)  # in the journal more than once
    damaged: list[str] = field(default_factory=list)  # a line whose checksum or payload is wrong
    disordered: list[str] = field(default_factory=list)  # after an event that the same connection sent later
    unexported: list[str] = field(default_factory=list)  # in the journal, but not at the collector, nor counted as lost
    other: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, list[str]]:
        """The kinds with violations."""
        return {name: found for name, found in vars(self).items() if found}


def judge(scene: Scene, sent_again: set[str]) -> Verdict:
    """Compare the journal with the ledger. Events *sent_again* may be out of order: a retry gave them their place."""
    verdict, ledger = Verdict(), scene.ledger
    lines, damaged = journal.read(scene.data)
    places: defaultdict[str, list[int]] = defaultdict(list)
    for line in filter(_is_event, lines):
        event_id = line.record.get("extra", {}).get("id", "")
        places[event_id].append(line.place)
        if event_id not in ledger.sent:
            verdict.other.append(f"line {line.place} was never sent: {event_id!r}")
        elif not is_intact(line.record, event_id):
            verdict.damaged.append(event_id)
    verdict.lost = [one for one in ledger.acknowledged if one not in places and one not in scene.spoilt]
    verdict.doubled = [
        one
        for one, found in places.items()
        if len(found) > 1 and not (scene.unsynced and ledger.may_be_refused(one))  # docs/decisions.md: repeated events
    ]
    verdict.damaged += [repr(text[:80]) for text in damaged if text + b"\n" != scene.spoilt_bytes]
    verdict.disordered = _disordered({one: found[0] for one, found in places.items() if one not in sent_again})
    if scene.spoilt_bytes and not _is_kept(scene.data, scene.spoilt_bytes.rstrip(b"\n")):
        verdict.other.append("the damaged line is gone: it should have been kept")
    verdict.other += ledger.surprises + scene.failures
    return verdict


def spans_of(scene: Scene) -> dict[bytes, str]:
    """Span id → event id of each line in the journal now."""
    lines, _ = journal.read(scene.data)
    return {bytes.fromhex(line.record["span_id"]): line.record["extra"]["id"] for line in filter(_is_event, lines)}


def diagnoses(data: Path) -> set[str]:
    """The texts of the diagnoses in the journal, each of which must have been posted to the gateway."""
    found = set()
    for path in segments(data, "decisions"):
        for _, text in whole_lines(path):
            with suppress(ValueError):
                decision = json.loads(text)
                if decision["kind"] == "diagnosis":
                    found.add(decision["body"]["text"])
    return found


def repeats(spans: Counter[bytes]) -> int:
    """The number of duplicate spans at the collector, which at-least-once delivery allows."""
    return sum(count - 1 for count in spans.values())


def _is_event(line: journal.Line) -> bool:
    """Whether *line* is an event of the load: the journal also has corrections and the like."""
    return line.record.get("source") == "scenario"


def _disordered(places: dict[str, int]) -> list[str]:
    highest: dict[str, int] = {}
    wrong = []
    for event_id in sorted(places, key=places.__getitem__):
        connection, _, number = event_id.rpartition("-")
        if int(number) < highest.get(connection, -1):
            wrong.append(event_id)
        highest[connection] = max(int(number), highest.get(connection, -1))
    return wrong


def _is_kept(data: Path, text: bytes) -> bool:
    return any(text in path.read_bytes() for path in data.rglob("*") if path.is_file())
