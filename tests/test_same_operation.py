"""One operation is one op, whoever saw it and in whatever order they tell of it."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model import ObservedOp
from sidecar.normalize import Normalizer
from sidecar.redaction import Redactor
from sidecar.spans.conventions_table import BESIDE, INSIDE, WITNESSES, Kind
from sidecar.spans.same_operation import OneOp, kind_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
AGENT, TOOL, CLIENT, PROXY = "a" * 16, "b" * 16, "c" * 16, "d" * 16


def op(op_id: str, span: str | None, parent: str | None, **fields: Any) -> ObservedOp:
    said: dict[str, Any] = {
        "timestamp": "2026-01-31T08:15:00.000Z",
        "endpoint": "/search",
        "input_summary": "asked",
        "success": True,
        "duration_ms": 20,
        "output_summary": "1 rows",
        "source": "otlp",
        "trace_id": TRACE,
    }
    return ObservedOp(**{**said, "op_id": op_id, "span_id": span, "parent_span_id": parent, **fields})


def operation(name: str) -> dict[str, Any]:
    return {"extra": {"convention": "http"} if name == "http" else {"gen_ai.operation.name": name}}


def the_witnesses() -> list[ObservedOp]:
    """One call: the tool made it, the agent's HTTP client sent it, the proxy saw it, two reported it."""
    return [
        op(
            "tool",
            TOOL,
            AGENT,
            endpoint="execute_tool find",
            duration_ms=40,
            features={"count": 2},
            **operation("execute_tool"),
        ),
        op("http", CLIENT, TOOL, duration_ms=30, **operation("http")),
        op("proxy", PROXY, CLIENT, source="mcp", features={"role": "forklift"}),
        op("langfuse", "e" * 16, AGENT, source="langfuse", staffer_id="ann", **operation("execute_tool")),
        op("event", None, AGENT, source="scenario", endpoint="scenario:fill", duration_ms=0, city="Toledo"),
    ]


def latest(journalled: list[ObservedOp]) -> list[ObservedOp]:
    """What a view counts: all but those that another takes the place of."""
    gone = {name for each in journalled for name in (each.amends or "").split()}
    return [each for each in journalled if each.op_id not in gone]


def journalled(ops: list[ObservedOp], **options: Any) -> list[ObservedOp]:
    one = OneOp(**options)
    return [said for at, each in enumerate(ops) if (said := one.seen(each, at * 0.1)) is not None]


@pytest.mark.parametrize("order", list(permutations(range(5))))
def test_a_call_seen_by_all_is_counted_once_in_any_order(order: tuple[int, ...]) -> None:
    """Whoever comes first, one op counts in the end: the proxy's word, with what only others knew."""
    witnesses = the_witnesses()
    (counted,) = latest(journalled([witnesses[index] for index in order]))
    assert (counted.endpoint, counted.source, counted.duration_ms) == ("/search", "mcp", 20)
    assert (counted.staffer_id, counted.city, counted.features) == ("ann", "Toledo", {"role": "forklift", "count": 2})
    assert counted.success


@pytest.mark.parametrize("order", list(permutations(range(5))))
def test_a_failure_that_anybody_saw_stays_one(order: tuple[int, ...]) -> None:
    """A tool that fails on a good answer has failed, even where its span comes before the proxy's."""
    witnesses = the_witnesses()
    failure = {"success": False, "error": "no such role", "error_type": "ValueError"}
    witnesses[0] = msgspec.structs.replace(witnesses[0], **failure)
    witnesses[4] = msgspec.structs.replace(witnesses[4], **failure)
    (counted,) = latest(journalled([witnesses[index] for index in order]))
    assert (counted.success, counted.error, counted.error_type) == (False, "no such role", "ValueError")
    assert counted.endpoint == "/search"


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_message_says_more_than_a_status(order: tuple[int, ...]) -> None:
    """An HTTP client's span knows the status alone; what the tool or a report says of it tells why."""
    tool, http, _, langfuse, _ = the_witnesses()
    status = {"success": False, "error": "HTTP 422", "error_type": "422", "output_summary": "ERROR: HTTP 422"}
    raised = {"error": "no such role", "error_type": "ValueError", "output_summary": "ERROR: no such role"}
    witnesses = [
        msgspec.structs.replace(tool, success=False, **raised),
        msgspec.structs.replace(http, **status),
        msgspec.structs.replace(langfuse, endpoint=tool.endpoint),
    ]
    (counted,) = latest(journalled([witnesses[index] for index in order]))
    assert (counted.success, counted.error, counted.error_type) == (False, "no such role", "422")
    assert counted.output_summary == "ERROR: no such role"
    witnesses[0] = msgspec.structs.replace(tool, success=False, error="HTTP 422", error_type="422")
    (counted,) = latest(journalled([witnesses[index] for index in order]))
    assert (counted.error, counted.error_type) == ("HTTP 422", "422")


def test_ids_are_those_of_the_op_that_came() -> None:
    """What takes the place of another keeps its own ids, and names the other."""
    tool, http, proxy, *_ = the_witnesses()
    said = journalled([http, proxy, tool])
    assert [(each.op_id, each.span_id, each.amends) for each in said] == [
        ("http", CLIENT, None),
        ("proxy", PROXY, "http"),
        ("tool", TOOL, "proxy"),
    ]


def test_a_witness_that_adds_nothing_is_absorbed() -> None:
    """The agent's HTTP client knows nothing that the proxy does not: nothing is journalled for it."""
    _, http, proxy, *_ = the_witnesses()
    one = OneOp()
    assert one.seen(proxy, 0.0) is proxy
    assert one.seen(http, 1.0) is None
    assert one.absorbed == 1


def test_the_same_span_again_is_absorbed() -> None:
    """A batch that an exporter sends again makes no second op, not even of an agent's span."""
    agent = op("agent", AGENT, None, endpoint="invoke_agent x", **operation("invoke_agent"))
    one = OneOp()
    assert one.seen(agent, 0.0) is agent
    assert one.seen(agent, 1.0) is None


def test_a_pulled_observation_of_the_same_span_is_the_same() -> None:
    """Langfuse names an observation by the id of the span that it was made of."""
    tool = the_witnesses()[0]
    pulled = op("pulled", TOOL, AGENT, source="langfuse", task="shift-7", **operation("execute_tool"))
    (counted,) = latest(journalled([tool, pulled]))
    assert (counted.endpoint, counted.task) == ("execute_tool find", "shift-7")


def test_two_calls_of_one_tool_are_two() -> None:
    """The tool is the same as one of its calls, the last; each call counts."""
    tool, *_ = the_witnesses()
    first = op("p1", "1" * 16, TOOL, source="mcp", timestamp="2026-01-31T08:14:59.900Z", duration_ms=5)
    second = op("p2", "2" * 16, TOOL, source="mcp", duration_ms=5)
    said = journalled([first, second, tool])
    assert [each.amends for each in said] == [None, None, "p2"]
    assert len(latest(said)) == 2


PROXIED = op("proxy", PROXY, AGENT, source="mcp", endpoint="/orders/{id}/ship")
MODEL = op("proxy", PROXY, AGENT, source="mcp", endpoint="/v1/chat/completions", **operation("chat"))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("call", "report", "count"),
    [
        (PROXIED, {"endpoint": "scenario:fill"}, 1),
        (PROXIED, {"endpoint": "scenario:fill", "success": False, "error": "nobody came"}, 2),
        (PROXIED, {"endpoint": "/orders/7/ship", "success": False, "error": "lost"}, 1),
        (PROXIED, {"endpoint": "/orders/7/pack"}, 2),
        (PROXIED, {"endpoint": "", "success": False, "error": "lost"}, 2),
        (PROXIED, {"endpoint": ""}, 1),
        (PROXIED, {"endpoint": f"/orders/{'7' * 5000}/ship"}, 2),
        (PROXIED, {"endpoint": "/orders/7"}, 2),
        (the_witnesses()[0], {"endpoint": "find", "success": False, "error": "lost"}, 1),
        (the_witnesses()[0], {"endpoint": "book"}, 2),
        (the_witnesses()[0], {"source": "langfuse", "endpoint": "execute_tool find", **operation("execute_tool")}, 1),
        (the_witnesses()[0], {"source": "langfuse", "endpoint": "execute_tool book", **operation("execute_tool")}, 2),
        (PROXIED, {"source": "langfuse", **operation("execute_tool")}, 1),
        (PROXIED, {"source": "langfuse", **operation("chat")}, 2),
        (MODEL, {"source": "langfuse", **operation("chat")}, 1),
        (MODEL, {"source": "langfuse", **operation("execute_tool")}, 2),
        (op("http", CLIENT, AGENT, **operation("http")), {"source": "langfuse", **operation("chat")}, 1),
    ],
)
def test_a_report_beside_a_call_is_of_it_only_if_it_can_be(
    call: ObservedOp, report: dict[str, Any], count: int, order: int
) -> None:
    """An event names the call, or else agrees on the outcome; an observation of a model or tool is of no other call."""
    told = op("report", "1" * 16 if "extra" in report else None, AGENT, **{"source": "scenario", **report})
    assert len(latest(journalled([call, told][::order]))) == count


def test_an_event_that_names_the_path_of_a_tools_call_is_of_it() -> None:
    """It has the tool's parent, and the name that the proxy gives; spans come when they have ended, children first."""
    tool, http, proxy, *_ = the_witnesses()
    event = op("event", None, AGENT, source="scenario", success=False, error="lost")
    (counted,) = latest(journalled([proxy, event, http, tool]))
    assert (counted.endpoint, counted.success, counted.error) == ("/search", False, "lost")


def test_siblings_are_paired_by_time() -> None:
    """Two calls and two events of one agent: each event is that of the call that ended nearest to it."""
    calls = [op(f"p{n}", str(n) * 16, AGENT, source="mcp", timestamp=f"2026-01-31T08:15:0{n}.000Z") for n in (1, 2)]
    events = [
        op(f"e{n}", None, AGENT, source="scenario", timestamp=f"2026-01-31T08:15:0{n}.010Z", role=f"role {n}")
        for n in (2, 1)
    ]
    counted = latest(journalled([*calls, *events]))
    assert sorted((each.amends, each.role) for each in counted) == [("p1", "role 1"), ("p2", "role 2")]


def test_an_agent_and_its_calls_are_several() -> None:
    """What holds operations is none of them, and a model's call is not its sibling tool's."""
    ops = [
        op("agent", AGENT, None, **operation("invoke_agent")),
        op("tool", TOOL, AGENT, **operation("execute_tool")),
        op("chat", "1" * 16, AGENT, **operation("chat")),
        op("chat in tool", "2" * 16, TOOL, **operation("chat")),
        op("proxy", PROXY, AGENT, source="mcp"),
    ]
    assert journalled(ops) == ops


def test_only_what_names_its_trace_can_be_the_same() -> None:
    """Events without trace or parent pass untouched, and are not remembered; so does an op that amends by itself."""
    bare = op("bare", None, None, trace_id=None, source="scenario")
    root = op("root", "1" * 16, None, source="scenario")
    update = op("update", TOOL, AGENT, amends="earlier", **operation("execute_tool"))
    one = OneOp()
    assert [one.seen(each, 0.0) for each in (bare, root, update)] == [bare, root, update]
    assert len(one) == 0


def test_other_traces_are_other_operations() -> None:
    """Span ids are unique within a trace only."""
    _, http, proxy, *_ = the_witnesses()
    elsewhere = msgspec.structs.replace(proxy, trace_id="f" * 32)
    assert journalled([http, elsewhere]) == [http, elsewhere]


def test_after_the_window_it_is_another() -> None:
    """Reports that come too late are ops of their own, and nothing of the first is kept."""
    _, http, proxy, *_ = the_witnesses()
    one = OneOp(window_s=15.0)
    one.seen(http, 100.0)
    assert one.seen(proxy, 115.5) is proxy
    assert len(one) == 1
    assert one.seen(op("later", "9" * 16, None, **operation("chat")), 200.0) is not None
    assert len(one) == 1


def test_the_door_may_know_better_who_saw_it() -> None:
    """A call of the Python wrapper through the proxy is one; both are gateway calls, and the door tells them apart."""
    wrapper = op("wrapper", CLIENT, AGENT, source="mcp")
    proxy = op("proxy", PROXY, CLIENT, source="mcp", error_type=None)
    one = OneOp()
    assert one.seen(wrapper, 0.0, Kind.WRAPPER) is wrapper
    said = one.seen(proxy, 0.1, Kind.PROXY)
    assert said is None or said.amends == "wrapper"
    nested = OneOp()
    assert nested.seen(wrapper, 0.0) is wrapper
    assert nested.seen(proxy, 0.1) is proxy


SPANS = st.sampled_from([None, *(digit * 16 for digit in "1234567")])


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[ObservedOp, float, Kind]]:
    """Ops of two traces under any parents, some again, from any witness, at rising times."""
    times = sorted(draw(st.lists(st.floats(0, 60), max_size=40)))
    return [
        (
            op(
                f"op{number}",
                draw(SPANS),
                draw(SPANS),
                trace_id=draw(st.sampled_from([TRACE, "f" * 32])),
                timestamp=f"2026-01-31T08:15:{number % 60:02d}.000Z",
                success=draw(st.booleans()),
                duration_ms=draw(st.floats(0, 1e300)),
                features=draw(st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=70)) or None,
            ),
            at,
            draw(st.sampled_from(Kind)),
        )
        for number, at in enumerate(times)
    ]


@settings(deadline=None)
@given(arrivals(), st.integers(1, 6))
def test_memory_is_bounded_and_each_op_is_replaced_once(ops: list[tuple[ObservedOp, float, Kind]], most: int) -> None:
    """Whatever comes: at most *most* are remembered, nothing is left of the rest, no op is amended twice."""
    one = OneOp(most=most)
    normalizer = Normalizer(Redactor())
    said = [each for raw, at, kind in ops if (each := one.seen(normalizer.op(raw), at, kind)) is not None]
    assert len(one) <= most
    assert {id(each) for each in one._by_span.values()} <= {id(each) for each in one._operations.values()}
    remembered = {id(each) for each in one._operations.values()}
    for under in one._under.values():
        assert {id(each) for each in under.reports.values()} <= {id(each) for each in under.all.values()} <= remembered
        assert under.all
    amended = [name for each in said for name in (each.amends or "").split()]
    assert len(amended) == len(set(amended))
    assert set(amended) <= {each.op_id for each in said}
    assert all(normalizer.op(each) == each for each in said)
    one.seen(op("end", "8" * 16, "9" * 16, **operation("chat")), 1000.0)
    assert (len(one), len(one._by_span), len(one._under)) == (1, 1, 1)


def test_the_table_speaks_of_every_kind() -> None:
    """Each witness has a rank, the more direct the better, and only those that can be inside or beside are listed."""
    assert set(WITNESSES) == set(Kind)
    for child, parents in INSIDE.items():
        assert child not in parents
        assert child is Kind.EVENT or all(WITNESSES[child] < WITNESSES[parent] for parent in parents - {Kind.WRAPPER})
    assert set(BESIDE) == {Kind.LANGFUSE, Kind.EVENT}


@pytest.mark.parametrize(
    ("source", "operation_name", "kind"),
    [
        ("mcp", None, Kind.PROXY),
        ("scenario", None, Kind.EVENT),
        ("langfuse", None, Kind.LANGFUSE),
        ("langfuse", "execute_tool", Kind.LANGFUSE),
        ("langfuse", "invoke_agent", Kind.OTHER),
        ("langfuse", "step", Kind.OTHER),
        ("otlp", "http", Kind.HTTP),
        ("otlp", "execute_tool", Kind.TOOL),
        ("otlp", "chat", Kind.MODEL),
        ("otlp", "invoke_agent", Kind.OTHER),
        ("overseer_correction", None, Kind.OTHER),
    ],
)
def test_an_op_tells_how_it_was_seen(source: str, operation_name: str | None, kind: Kind) -> None:
    """By its source, and by the operation that the conventions wrote down."""
    extra = operation(operation_name) if operation_name else {}
    assert kind_of(op("x", TOOL, None, source=source, **extra)) is kind


def test_large_ops_are_remembered_by_their_size() -> None:
    """Some thousand small ones, or a few of a megabyte: the oldest go early and are counted; the texts stay bounded."""
    one = OneOp(most_characters=1000)
    for number in range(50):
        large = op(f"op-{number}", f"{number:016x}", AGENT, **operation("execute_tool"), error="e" * 300)
        assert one.seen(large, float(number) / 100) is large
        assert one.characters <= 1000
    assert (len(one), one.forgotten) == (3, 47)
    again = op("again", f"{49:016x}", AGENT, **operation("execute_tool"), error="e" * 300)
    assert one.seen(again, 1.0) is None
    assert one.seen(op("late", "f" * 16, AGENT, **operation("execute_tool")), 1000.0) is not None
    assert (len(one), one.characters) == (1, len("/search") + len("asked") + len("1 rows") + len("execute_tool"))


def test_a_merged_operation_counts_its_texts_once() -> None:
    """All witnesses of one call: what is remembered of it goes with it."""
    one = OneOp()
    for witness in the_witnesses():
        one.seen(witness, 0.0)
    assert len(one) == 1
    assert one.characters > 0
    one.seen(op("late", "f" * 16, AGENT, **operation("execute_tool")), 1000.0)
    assert one.characters == len("/search") + len("asked") + len("1 rows") + len("execute_tool")
