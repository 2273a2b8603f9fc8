"""Failures with one cause have one fingerprint, whatever ids, amounts and dates they carry."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.analysis.fingerprint import MAX_ENDPOINT, MAX_MESSAGE, Fingerprints, fingerprint, mask, one_line
from sidecar.analysis.template_tree import TemplateTree
from tests.fakes import an_op

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tau_bench_airline_gpt4o.jsonl"
PIECES = [
    *"aA1f-_.:,@/ '\"<>{}[]+é\n\0",
    "12",
    "num",
    "<num>",
    "http://",
    "com",
    "0x",
    "Jan",
    "ms",
    "localhost",
    "ab12cd34",
]


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded tool calls are not beside the repository")
def test_the_recorded_failures_fall_into_their_true_causes() -> None:
    """38 failures with 17 different texts at three tools have nine causes."""
    causes: Counter[tuple[str, str]] = Counter()
    ids = set()
    for line in RECORDED.read_text().splitlines():
        call = json.loads(line)
        if call["result"].startswith("Error: "):
            found, message = fingerprint(an_op(endpoint=call["tool"], success=False, error=call["result"]))
            causes[call["tool"], message] += 1
            ids.add(found)
    book, flights, bags = "book_reservation", "update_reservation_flights", "update_reservation_baggages"
    assert causes == {
        (book, "Error: payment amount does not add up, total price is <num>, but paid <num>"): 13,
        (book, "Error: not enough balance in payment method <id>"): 2,
        (book, "Error: not enough seats on flight <id>"): 1,
        (flights, "Error: flight <id> not available on date <date>"): 11,
        (flights, "Error: gift card balance is not enough"): 4,
        (flights, "Error: not enough seats on flight <id>"): 3,
        (flights, "Error: payment method not found"): 2,
        (flights, "Error: certificate cannot be used to update reservation"): 1,
        (bags, "Error: gift card balance is not enough"): 1,
    }
    assert len(ids) == 9


@pytest.mark.parametrize(
    ("message", "masked"),
    [
        ("mail to mia.li+x@example.com failed", "mail to <email> failed"),
        ("GET https://shop.example.com/a?b=1 said no", "GET <url> said no"),
        ("gateway.default.svc:80 and localhost:3700 refused", "<host> and <host> refused"),
        ("dial 10.0.0.1:443, [fe80:0:0:0:1:2:3:4], ::1", "dial <ip>, [<ip>], <ip>"),
        ("in 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "in <traceparent>"),
        ("op 018f2b5e-7c1a-7b3e-9d2f-1a2b3c4d5e6f gone", "op <uuid> gone"),
        ("blob da39a3ee5e6b4b0d3255bfef95601890afd80709", "blob <hash>"),
        (
            "since 2024-05-01T10:00:00.123Z, 2024-05-13, May 3, 2024 and 10:15 PM",
            "since <date>, <date>, <date> and <date>",
        ),
        ("timeout after 30s, 250 ms, 1.5 hours", "timeout after <duration>, <duration>, <duration>"),
        ("body of 10MB at 0xdeadbeef, 4bf92f35", "body of <size> at <hex>, <hex>"),
        ("total 1,203.50, paid 833, off by -370.5 (3%)", "total <num>, paid <num>, off by <num> (<num>%)"),
        ("mia_li_3668, HAT030, NO6JO3, gift_card_8190333, JIRA-123", "<id>, <id>, <id>, <id>, <id>"),
        ("pod-5d9c7b8f6-x2x9z, ch_3NqLk2eZvKYlo2C", "<id>, <id>"),
        ("KeyError: 'certificate' for \"New York\"", "KeyError: 'certificate' for <str>"),
        (
            '{"code": 42, "message": "the city is closed today"}',
            '{"code": <num>, "message": "the city is closed today"}',
        ),
        ("can't read the agent's card", "can't read the agent's card"),
        ("sha256, base64, utf8, E501 and v2 stay", "sha256, base64, utf8, E501 and v2 stay"),
        ("connection reset by peer", "connection reset by peer"),
        ("two\nlines\x07 and \ud800", "two lines and \N{REPLACEMENT CHARACTER}"),
        ("open /srv/data/a.json: no, /v1/x?id=7 and /x?y=1", "open <path>: no, <path> and <path>"),
        ("at /app/main.js:15:30, /health and and/or", "at <path>, /health and and/or"),
        ("'404 Not Found' and 503 Service Unavailable", "'404 Not Found' and 503 Service Unavailable"),
        ("failed with status code 409, HTTP 500", "failed with status code 409, HTTP 500"),
        (
            'column "city" of relation "jobs", KeyError: \'role\'',
            'column "city" of relation "jobs", KeyError: \'role\'',
        ),
        ("seat 12A, orders-17, pod web-n5jw7rbmds-kvskf, utf-8", "seat <id>, <id>, pod <id>, utf-<num>"),
        ("name is '' or \"\"", "name is <str> or <str>"),
    ],
)
def test_particulars_are_masked_and_words_stay(message: str, masked: str) -> None:
    """Each kind of particular has its mask; what tells causes apart is left."""
    assert mask(message) == masked


@given(st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text(max_size=200))
def test_masking_twice_changes_nothing(message: str) -> None:
    """A masked message is its own mask."""
    assert mask(mask(message)) == mask(message)


@pytest.mark.parametrize("piece", ["1,", "a-", "1.", "a:", '"a ', "' ", "A1", '{"', "+.", "a@", "0"])
def test_a_message_made_to_be_slow_is_masked_within_its_bound(piece: str) -> None:
    """Only the first thousand characters count, and they come out no longer."""
    message = piece * 500_000
    assert len(mask(message)) <= MAX_MESSAGE
    assert mask(message) == mask(message[: MAX_MESSAGE + 1])
    assert mask(mask(message)) == mask(message)


def test_endpoint_error_type_and_message_each_tell_incidents_apart() -> None:
    """Where one of the three differs, so does the fingerprint; where only particulars do, it does not."""
    base = an_op(success=False, error="shard 3 is slow", error_type="500")
    others = [
        an_op(success=False, error="shard 3 is slow", error_type="503"),
        an_op(success=False, error="shard 3 is down", error_type="500"),
        an_op(success=False, error="shard 3 is slow", error_type="500", endpoint="/other"),
    ]
    ids = {fingerprint(op)[0] for op in [base, *others]}
    assert len(ids) == 4
    assert fingerprint(an_op(success=False, error="shard 12 is slow", error_type="500"))[0] == fingerprint(base)[0]
    assert all(each.startswith("v2-") for each in ids)


def test_an_op_without_error_is_told_by_its_output() -> None:
    """`output_summary` stands in for an absent or empty error."""
    assert fingerprint(an_op(success=False, output_summary="failed"))[1] == "failed"
    assert fingerprint(an_op(success=False, error="", output_summary="failed"))[1] == "failed"


@pytest.mark.parametrize("endpoint", ["", "constructor", "__proto__", "x" * 1_000_000, "\ud800\0"])
def test_any_endpoint_has_a_fingerprint(endpoint: str) -> None:
    """Names that are empty, huge, unwritable or special elsewhere are names like any other."""
    short, message = fingerprint(an_op(endpoint=endpoint, success=False, error="no"))
    assert (len(short), message) == (19, "no")
    assert fingerprint(an_op(endpoint=endpoint[:MAX_ENDPOINT], success=False, error="no"))[0] == short


def test_one_line_keeps_plain_text_as_it_is() -> None:
    """Only control characters and the bound change a text."""
    assert one_line("fill welder×1  in Reno", 100) == "fill welder×1  in Reno"
    assert one_line("a\r\n\tb\u2028c", 100) == "a b c"
    assert one_line("abcdef", 3) == "abc"


def test_learned_templates_leave_the_recorded_causes_as_they_are() -> None:
    """Where nothing but particulars varies, the tree changes neither fingerprint nor message."""
    if not RECORDED.exists():
        pytest.skip("the recorded tool calls are not beside the repository")
    learning = Fingerprints(TemplateTree())
    for line in RECORDED.read_text().splitlines():
        call = json.loads(line)
        if call["result"].startswith("Error: "):
            op = an_op(endpoint=call["tool"], success=False, error=call["result"])
            assert learning.find(op) == learning.find(op) == fingerprint(op)


def test_names_of_people_become_one_incident_with_the_first_ones_fingerprint() -> None:
    """From the fourth name on there is one template; the ids of the names before are renamed to the first's."""
    learning = Fingerprints(TemplateTree())
    ops = [an_op(success=False, error=f"worker {name} is not certified") for name in ("Ann", "Bob", "Cy", "Dee", "Ed")]
    found = [learning.find(op) for op in ops]
    first = fingerprint(ops[0])[0]
    assert [each for each, _ in found] == [*(fingerprint(op)[0] for op in ops[:3]), first, first]
    assert found[4][1] == "worker <word> is not certified"
    assert learning.find(ops[1]) == found[4]
    assert learning.tree.take_renamed() == {fingerprint(op)[0]: first for op in ops[1:3]}
    assert learning.tree.take_renamed() == {}


@given(st.lists(st.text(max_size=30), max_size=60))
def test_remembering_messages_changes_no_fingerprint(messages: list[str]) -> None:
    """A reader that forgets everything but the tree finds the same."""
    one, tree = Fingerprints(TemplateTree()), TemplateTree()
    for message in messages * 2:
        op = an_op(success=False, error=message)
        assert one.find(op) == Fingerprints(tree).find(op)
