"""Endpoints that keep succeeding become playbook entries; a new version only when they have doubled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.playbook_book import MAX_ENTRIES, PlaybookBook
from sidecar.analysis.playbook_consolidator import MAX_WRITTEN, PlaybookConsolidator, playbook_id
from sidecar.analysis.success_book import MAX_ENDPOINTS, SuccessBook
from sidecar.errors import JournalError
from sidecar.model import ObservedOp
from sidecar.model_learning import NO_PATTERN, PlaybookEntry, is_wordless
from tests.fakes import KeptDecisions, KeptPosts, KeptSpans, ManualClock, an_op


def successes(count: int, endpoint: str = "/fill", **fields: object) -> list[ObservedOp]:
    return [
        an_op(
            **{
                "endpoint": endpoint,
                "input_summary": f"try {number}",
                "duration_ms": number,
                "op_id": f"op-{number}",
                "trace_id": f"{number + 1:032x}",
                "span_id": f"{number + 1:016x}",
                **fields,
            }
        )
        for number in range(count)
    ]


class Bench:
    """A consolidator with everything it needs."""

    def __init__(self) -> None:
        self.book, self.playbook = SuccessBook(), PlaybookBook()
        self.decisions, self.gateway, self.spans = KeptDecisions(), KeptPosts(), KeptSpans()
        self.consolidator = PlaybookConsolidator(
            self.book,
            self.playbook,
            self.decisions,
            outbox=self.gateway,
            tracer=self.spans.tracer,
            clock=ManualClock(),
        )
        self.decisions.on("playbook", self._keep, self.consolidator.tell)

    def _keep(self, body: bytes) -> None:
        self.playbook.keep(msgspec.json.decode(body, type=PlaybookEntry))

    def entries(self) -> list[PlaybookEntry]:
        return [row.latest for row in self.playbook.rows()]

    async def cycle(self, *ops: ObservedOp) -> None:
        for op in ops:
            self.book.consume(op)
        await self.consolidator.consolidate()

    @property
    def posted(self) -> list[Mapping[str, Any]]:
        return [entry for _, entry, _ in self.gateway.again]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_an_entry_is_written_posted_and_a_span(bench: Bench) -> None:
    """The decision comes first and follows the last op; the gateway is told in its own terms."""
    await bench.cycle(*successes(6))
    ((kind, entry, follows),) = bench.decisions.decided
    assert (kind, follows) == ("playbook", "op-5")
    assert (entry.playbook_id, entry.version, entry.kind) == (playbook_id("do", "/fill"), 1, "do")
    assert entry.playbook_id.startswith("pb-")
    assert len(entry.playbook_id) == 15
    assert bench.posted == [
        {
            "operation": "consolidated: 6 successful /fill calls",
            "approach": "common pattern: try 3; try 4; try 5",
            "result": "avg_duration=3ms, 6 successes",  # 2.5, half up
            "context": "endpoint=/fill",
        }
    ]
    (span,) = bench.spans.named("observer.playbook")
    assert [link.context.span_id for link in span.links] == [4, 5, 6]
    assert dict(span.attributes or {}) == {
        "observer.playbook.id": entry.playbook_id,
        "observer.playbook.version": 1,
        "observer.playbook.text": "common pattern: try 3; try 4; try 5",
    }
    assert bench.entries() == [entry]


@pytest.mark.parametrize(
    ("text", "wordless"),
    [
        (NO_PATTERN, True),
        ("common pattern: ? ?×? in ?, ?", True),
        ("common pattern: ? ?×? in ?, ?; ? ?×? in ?, ?; ? ?×? i", True),
        ("common pattern: ? ?×? in ?, ?; fill welder×2 in Reno, NV", False),
        ("common pattern: ? ?×? in Reno, NV", False),
        ("common pattern: POST /fill; POST /fill; /fi", False),
        ("common pattern: POST /fill; /fill", True),
        ("common pattern: POST /fill a=1; POST /fill", False),
        ("common pattern: shipper; shipper; shipper", False),  # what they have in common
        ("Avoid f=? : 0 % of 20 such calls succeeded", False),
    ],
)
def test_a_pattern_of_summaries_that_say_nothing_is_none(text: str, wordless: bool) -> None:
    """However many of them there are, and wherever the last one is cut off; one that says anything makes it one."""
    assert is_wordless(text, "/fill") is wordless


@pytest.mark.parametrize("said", ["? ?×? in ?, ?", "/fill", "POST /fill", " "])
async def test_successes_that_say_nothing_of_their_inputs_are_told_to_no_agent(bench: Bench, said: str) -> None:
    """The gateway is told that they work, as ever; not even an approval makes advice of them, until some say more."""
    await bench.cycle(*successes(5, input_summary=said))
    row = bench.playbook.rows()[0]
    row.approved = row.latest.version
    assert bench.posted[0]["approach"] == row.latest.text == NO_PATTERN
    assert row.told is None
    await bench.cycle(*successes(4, input_summary=said), *successes(1))
    row.approved = row.latest.version
    assert row.told is not None
    assert (row.told.version, row.told.text) == (2, "common pattern: try 0")


async def test_too_few_successes_are_no_pattern(bench: Bench) -> None:
    """Five in all, three at the endpoint; failures and corrections do not count."""
    await bench.cycle(*successes(4))
    await bench.cycle(*successes(9, success=False), *successes(9, source="overseer_correction"))
    assert bench.posted == []
    await bench.cycle(*successes(2, "/other"))
    assert [entry["context"] for entry in bench.posted] == ["endpoint=/fill"]


async def test_only_a_doubling_is_news(bench: Bench) -> None:
    """The same successes are posted once; twice as many are the next version."""
    counts = []
    for _ in range(40):
        await bench.cycle(*successes(1))
        counts = [entry.successes for _, entry, _ in bench.decisions.decided]
    assert counts == [5, 10, 20, 40]
    (entry,) = bench.entries()
    assert entry.version == 4
    assert len({entry["operation"] for entry in bench.posted}) == 4


@pytest.mark.parametrize("saved", [True, False], ids=["from rows", "from decisions"])
async def test_restored_entries_are_not_written_again(bench: Bench, saved: bool) -> None:
    """Saved rows tell of them, and so do decisions in any order; only more successes make another version."""
    await bench.cycle(*successes(5))
    await bench.cycle(*successes(5))
    again = Bench()
    again.book.load(bench.book.take_dirty())
    if saved:
        again.playbook.load(bench.playbook.take_dirty())
    else:
        for _, body, _ in reversed(bench.decisions.decided):
            again.decisions.apply("playbook", msgspec.json.encode(body))
    await again.cycle()
    assert again.decisions.decided == []
    assert len(again.gateway.again) == (0 if saved else 2)  # the outbox knows them or not
    assert again.entries() == bench.entries()
    await again.cycle(*successes(10))
    assert again.entries()[0].version == 3


async def test_a_journal_that_fails_leaves_it_for_the_next_time(bench: Bench) -> None:
    """No entry, no post; then both."""
    bench.decisions.failing = JournalError("the journal did not accept the record", "disk full", "Make room")
    await bench.cycle(*successes(5), *successes(5, "/b"))
    assert (bench.entries(), bench.posted, bench.consolidator.failed) == ([], [], 1)
    bench.decisions.failing = None
    await bench.cycle()
    assert len(bench.posted) == 2


async def test_a_post_that_cannot_be_made_costs_itself(bench: Bench) -> None:
    """A fault that is no disk's: the entry is kept, and the next one is told."""
    bench.gateway.failing = ValueError("poison")
    await bench.cycle(*successes(5))
    bench.gateway.failing = None
    await bench.cycle(*successes(5, "/b"))
    assert ([entry["context"] for entry in bench.posted], len(bench.entries())) == (["endpoint=/b"], 2)


async def test_a_poison_endpoint_costs_itself(bench: Bench) -> None:
    """An endpoint whose entry cannot be made is counted; the others get theirs."""
    for op in [*successes(3, "/bad"), *successes(3, "/good")]:
        bench.book.consume(op)
    bench.book.endpoints()[0].duration_sum_ms = "much"  # type: ignore[assignment] # what a bug might leave
    await bench.cycle()
    assert [entry["context"] for entry in bench.posted] == ["endpoint=/good"]
    assert bench.consolidator.failed == 1


@pytest.mark.parametrize("endpoint", ["constructor", "__proto__", "", "x" * 1_000_000, "\ud800\0", "a\nb"])
async def test_a_hostile_endpoint_is_an_endpoint(bench: Bench, endpoint: str) -> None:
    """It gets its entry, short and on one line, beside the others."""
    await bench.cycle(*successes(3, endpoint, input_summary="i\n" * 9999), *successes(3))
    assert len(bench.posted) == 2
    assert all(len(text) < 400 and "\n" not in text for entry in bench.posted for text in entry.values())
    assert all(len(entry["approach"]) <= len("common pattern: ") + 200 for entry in bench.posted)


async def test_durations_beyond_sense_stay_finite(bench: Bench) -> None:
    """A sender's 1e308 ms is no reason to fail."""
    await bench.cycle(*successes(5, duration_ms=1e308))
    assert bench.posted[0]["result"] == "avg_duration=1000000000000ms, 5 successes"


async def test_at_most_a_hundred_entries_are_written_at_once(bench: Bench) -> None:
    """The next call writes the rest."""
    await bench.cycle(*(op for number in range(MAX_WRITTEN + 20) for op in successes(3, f"/e{number}")))
    assert len(bench.posted) == MAX_WRITTEN
    await bench.cycle()
    assert len(bench.posted) == MAX_WRITTEN + 20


def test_endpoints_and_entries_are_bounded(bench: Bench) -> None:
    """The least recent go out."""
    for number in range(MAX_ENDPOINTS + 5):
        bench.book.consume(successes(1, f"/e{number}")[0])
        entry = PlaybookEntry(
            playbook_id=f"pb-{number}",
            version=1,
            at="2024-05-01T10:00:00.000Z",
            kind="do",
            endpoint=f"/e{number}",
            text="",
            successes=3,
            avg_duration_ms=1.0,
        )
        bench.decisions.apply("playbook", msgspec.json.encode(entry))
    assert (len(bench.book.endpoints()), bench.book.evicted) == (MAX_ENDPOINTS, 5)
    assert (len(bench.entries()), bench.playbook.evicted) == (MAX_ENTRIES, 5)


def test_an_op_that_cannot_be_read_costs_itself(bench: Bench) -> None:
    """The next one is counted all the same."""
    bench.book.consume(an_op(endpoint=5))
    bench.book.consume(an_op())
    assert (bench.book.not_counted, len(bench.book.endpoints())) == (1, 1)


@given(st.permutations(range(6)))
def test_saved_rows_restore_the_same_book_in_any_order(order: list[int]) -> None:
    """Successes, durations, inputs and evidence come back; a failed save comes again."""
    book = SuccessBook()
    for number in range(6):
        for second in range(number + 1):
            book.consume(successes(1, f"/e{number}", timestamp=f"2024-05-01T10:0{number}:0{second}.000Z")[0])
    rows = book.take_dirty()
    assert book.take_dirty() == {}
    book.put_back(rows)
    assert book.take_dirty() == rows
    restored, items = SuccessBook(), list(rows.items())
    restored.load(dict(items[index] for index in order))
    assert restored.endpoints() == book.endpoints()
