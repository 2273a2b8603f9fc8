"""The oracle finds what it is there for: each kind of wrong in a journal that was made so."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from random import Random

import pytest

from tests.crash.events import event_of
from tests.crash.faults import Scene
from tests.crash.journal import segments
from tests.crash.load import Ledger
from tests.crash.oracle import Verdict, judge, spans_of
from tests.crash.servers import Collector, Gateway


def line_of(event_id: str, **changed: object) -> bytes:
    """A journal line that says what was sent as *event_id*, but for what is *changed*."""
    event = event_of(event_id)
    extra = {"id": event.pop("id"), "digest": event.pop("digest")}
    event["source"] = "scenario"
    body = json.dumps({**event, "span_id": f"{zlib.crc32(event_id.encode()):016x}", "extra": extra, **changed}).encode()
    return b'%b,"crc":"%08x"}\n' % (body[:-1], zlib.crc32(body))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A connection sent four events; all but the last were acknowledged."""
    ledger = Ledger()
    ledger.note_sent(["0-0", "0-1", "0-2", "0-3"])
    ledger.acknowledged.update(dict.fromkeys(["0-0", "0-1", "0-2"]))
    return Scene(tmp_path, Random(1), ledger, Collector(), Gateway())


def verdict(scene: Scene, *lines: bytes, sent_again: set[str] | None = None) -> Verdict:
    """What the oracle says of a journal with *lines*."""
    (scene.data / "ops.jsonl").write_bytes(b"".join(lines))
    return judge(scene, sent_again or set())


GOOD = [line_of("0-0"), line_of("0-1"), line_of("0-2")]


@pytest.mark.parametrize("also", [[], [line_of("0-3")]], ids=["not written", "written"])
def test_what_was_not_acknowledged_may_be_there_or_not(scene: Scene, also: list[bytes]) -> None:
    """Nothing was promised of it."""
    assert verdict(scene, *GOOD, *also).kinds == {}


def test_an_acknowledged_event_that_is_missing_is_lost(scene: Scene) -> None:
    """That is what all this is about."""
    assert verdict(scene, GOOD[0], GOOD[2]).kinds == {"lost": ["0-1"]}


def test_an_event_that_is_there_twice_is_doubled(scene: Scene) -> None:
    """Acknowledged or refused: sent again under the same id it counts once."""
    twice = [*GOOD, line_of("0-3"), line_of("0-3")]
    assert verdict(scene, *twice).kinds == {"doubled": ["0-3"]}


def test_a_refused_event_may_be_there_twice_if_the_sync_failed(scene: Scene) -> None:
    """With `OBSERVER_FSYNC=always` its line is written, and its sender is refused all the same."""
    scene.unsynced = True
    scene.ledger.refused.add("0-3")
    assert verdict(scene, *GOOD, line_of("0-3"), line_of("0-3")).kinds == {}


async def test_a_refusal_that_nobody_read_counts_as_one(scene: Scene) -> None:
    """A sender that hung up, and sent again; a first attempt that was answered with 200 excuses nothing."""
    scene.unsynced = True
    twice = [*GOOD, line_of("0-3"), line_of("0-3")]
    scene.ledger.note_attempt(["0-3"])
    await scene.ledger.note_answer(["0-3"], 200, b"{}")
    assert verdict(scene, *twice).kinds == {"doubled": ["0-3"]}
    scene.ledger.note_attempt(["0-3"])
    assert verdict(scene, *twice).kinds == {}


@pytest.mark.parametrize(
    "changed", [{"success": None}, {"duration_ms": -1}, {"input_summary": "other"}, {"features": {}}, {"error": "no"}]
)
def test_a_payload_that_is_not_what_was_sent_is_damaged(scene: Scene, changed: dict[str, object]) -> None:
    """Also where its checksum fits."""
    assert verdict(scene, *GOOD[:2], line_of("0-2", **changed)).kinds == {"damaged": ["0-2"]}


@pytest.mark.parametrize("end", [b'{"half', GOOD[0][:-1], b'{"a":1}\n', GOOD[0].replace(b"crash", b"trash")])
def test_lines_that_are_torn_or_fail_their_checksum_are_damaged(scene: Scene, end: bytes) -> None:
    """After a restart there is none, but those that a fault spoilt."""
    assert list(verdict(scene, *GOOD, end).kinds) == ["damaged"]


def test_a_later_event_before_an_earlier_one_is_disorder(scene: Scene) -> None:
    """Order on a connection is order in the file; for what was sent again later there is none."""
    assert verdict(scene, GOOD[0], GOOD[2], GOOD[1]).kinds == {"disordered": ["0-1"]}
    assert verdict(scene, GOOD[0], GOOD[2], GOOD[1], sent_again={"0-1"}).kinds == {}


def test_a_line_that_nobody_sent_is_wrong(scene: Scene) -> None:
    """The journal holds what came, and nothing else; corrections come from elsewhere."""
    assert list(verdict(scene, *GOOD, line_of("9-9")).kinds) == ["other"]
    assert verdict(scene, *GOOD, line_of("9-9", source="overseer_correction")).kinds == {}


def test_what_we_spoilt_must_be_kept(scene: Scene) -> None:
    """A damaged line is not lost, if its bytes are still in some file."""
    spoilt = GOOD[1].replace(b"crash", b"trash")
    scene.spoilt, scene.spoilt_bytes = {"0-1"}, spoilt
    assert verdict(scene, GOOD[0], spoilt, GOOD[2]).kinds == {}
    assert list(verdict(scene, GOOD[0], GOOD[2]).kinds) == ["other"]
    (scene.data / "ops.damaged").write_bytes(spoilt)
    assert verdict(scene, GOOD[0], GOOD[2]).kinds == {}


def test_rotated_files_come_before_the_live_one(scene: Scene) -> None:
    """By the offset in their names."""
    (scene.data / f"ops.{0:020d}.jsonl").write_bytes(GOOD[0])
    (scene.data / f"ops.{len(GOOD[0]):020d}.jsonl").write_bytes(GOOD[1])
    assert verdict(scene, GOOD[2]).kinds == {}
    assert [path.name for path in segments(scene.data)] == [
        "ops.00000000000000000000.jsonl",
        f"ops.{len(GOOD[0]):020d}.jsonl",
        "ops.jsonl",
    ]
    assert list(spans_of(scene).values()) == ["0-0", "0-1", "0-2"]
