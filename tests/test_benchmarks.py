"""The benchmarks measure what they say: short runs against real servers, and the arithmetic on made-up samples."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import floats, lists
from rich.console import Console

from benchmarks import otlp, otlp_report
from benchmarks.__main__ import _arguments, run
from benchmarks.events import BATCH, bodies
from benchmarks.load import LoadResult, UnreadableAnswerError, answer_size, percentile
from benchmarks.measure import SCENARIOS, Measured, Sample
from benchmarks.report import Report, show, to_json
from benchmarks.servers import BenchmarkError, Command, Program, Server, split_cores


def test_a_short_run_measures_both_servers_and_leaves_none(tmp_path: Path) -> None:
    """Every answer is 200, each server has a sample a round, and the JSON holds ratio and targets."""
    flags = ["--rounds", "1", "--seconds", "0.3", "--starts", "1", "--rest", "0", "--bun", ""]
    args = _arguments(flags, {})
    scenarios = [each for each in SCENARIOS if each.name in ("event_16", "events_batch")]
    report = run(args, os.environ, tmp_path / "run", lambda _: None, scenarios)
    for measured in report.measured:
        assert [measured.failed(server) for server in ("no-op", "observer")] == [0, 0]
        assert all(measured.rate(server) > 0 for server in ("no-op", "observer"))
        assert all(measured.probe_ms(server)[2] > 0 for server in ("no-op", "observer"))
    whole = json.loads(to_json(report))
    assert whole["measured"][0]["summary"]["observer"]["ratio"]["no-op"] > 0
    assert [target["met"] is None for target in whole["targets"]] == [False] * 4


def test_a_server_that_does_not_start_is_reported_with_what_it_said(tmp_path: Path) -> None:
    """The error carries the end of the server's output; nothing is left running."""
    program = Program("broken", "/", lambda _port, folder: Command(["/bin/sh", "-c", "echo no; exit 3"], {}, folder))
    with pytest.raises(BenchmarkError, match=r"exit status 3.*\nno"), Server(program, tmp_path / "s", {}, None):
        pass


def test_targets_are_met_by_the_median_of_the_rounds_ratios() -> None:
    """One slow round does not decide; a program that was not there is no target."""
    report = _report(no_op=[1000.0, 1000.0, 100.0], observer=[450.0, 500.0, 10.0], rest_mib=81.0)
    verdicts = {target.name: target.met for target in report.targets()}
    assert verdicts == {
        "POST /event, 16 connections, × no-op": True,
        "resident at rest, MiB": False,
        "resident after load, MiB": True,
        "start to ready, s": True,
    }


def test_a_ratio_of_servers_that_did_not_get_their_core_is_in_doubt() -> None:
    """Then the ratio of their CPU times stands beside it."""
    starved, fed = (_report(no_op=[1000.0], observer=[500.0], busy=busy).targets()[0] for busy in (0.3, 0.95))
    assert (starved.in_doubt, fed.in_doubt) == (True, False)
    assert starved.by_cpu == pytest.approx(0.5)


def test_the_tables_say_what_was_measured_where() -> None:
    """Machine, pinning, ratio with its spread, failures and verdicts are on the page."""
    console = Console(width=120, file=io.StringIO(), record=True)
    show(_report(no_op=[1000.0, 800.0], observer=[500.0, 200.0]), console)
    text = console.export_text()
    for said in ("Some CPU, 2 cores", "core 1, load generator on core 0", "0.38", "0.25–0.50", "not met", "note:"):
        assert said in text


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{", 40),
        (b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\nContent-Length:0\r\n\r\n", 55),
    ],
)
def test_answers_are_delimited_by_their_content_length(data: bytes, size: int | None) -> None:
    """Whatever the header's case; None until the head is whole."""
    assert answer_size(data) == size


def test_an_answer_without_a_length_is_refused() -> None:
    """A chunked answer cannot be read by its length."""
    with pytest.raises(UnreadableAnswerError):
        answer_size(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


@given(lists(floats(0, 1e6), min_size=1))
def test_percentiles_are_values_that_occurred(values: list[float]) -> None:
    """The nearest rank: never below the share, the greatest at 1."""
    ordered = sorted(values)
    median = percentile(ordered, 0.5)
    assert 2 * sum(value <= median for value in ordered) >= len(ordered)
    assert percentile(ordered, 1.0) == ordered[-1]


def test_bodies_are_the_same_in_every_run() -> None:
    """Twelve fields or thirteen, four more as extras, and batches of the size that is reported."""
    assert bodies("event") == bodies("event")
    assert {len(json.loads(body)) for body in bodies("event")} == {12}
    assert {len(json.loads(body)) for body in bodies("extras")} == {16}
    assert {len(json.loads(body)) for body in bodies("batch")} == {BATCH}


def test_servers_and_load_share_no_core_where_there_are_two() -> None:
    """One core or none known: nothing is pinned."""
    cores = split_cores(frozenset({3, 5, 7}))
    assert cores.server is not None
    assert cores.load is not None
    assert not cores.server & cores.load
    assert split_cores(frozenset({0})).server is None


def _report(no_op: list[float], observer: list[float], rest_mib: float = 60.0, busy: float | None = None) -> Report:
    scenario = next(each for each in SCENARIOS if each.name == "event_16")
    return Report(
        at="2026-01-31T08:15:00+00:00",
        settings={"rounds": len(no_op), "seconds": 3.0, "server_core": "1", "load_core": "0"},
        machine={
            "cpu": "Some CPU",
            "cores": 2,
            "memory_mib": 4096,
            "kernel": "Linux 6",
            "data_file_system": "ext4",
            "load_average": [4.0, 2.0, 1.0],
            "load_average_after": [4.0, 2.0, 1.0],
        },
        versions={"python": "CPython 3.11"},
        measured=[
            Measured(
                scenario=scenario,
                samples={
                    "no-op": [_sample(rate, busy) for rate in no_op],
                    "observer": [_sample(rate, busy) for rate in observer],
                },
            )
        ],
        starts_s={"no-op": [0.2], "observer": [0.9, 1.4, 2.0]},
        at_rest_mib={"no-op": 30.0, "observer": rest_mib},
        after_load_mib={"no-op": 30.0, "observer": 110.0},
    )


def _sample(rate: float, busy: float | None = None) -> Sample:
    load = LoadResult(
        requests=int(rate), elapsed_s=1.0, p50_ms=1.0, p99_ms=2.0, max_ms=3.0, not_200={}, lost=0, busy=0.5
    )
    return Sample(load=load, events=int(rate), server_cpu_s=busy)


def test_a_short_otlp_run_loses_nothing(tmp_path: Path) -> None:
    """Every span that was acknowledged arrives, events' spans too, and a Watch sees every op."""
    flags = ["--rounds", "1", "--requests", "2", "--seconds", "0.3", "--watched", "3"]
    args = otlp._arguments(flags)
    args.collector = None
    report = otlp.run(args, tmp_path, Console(file=io.StringIO()))
    assert [(row.server, row.lost, row.repeated) for row in report.rows] == [("observer", 0, 0)] * 3
    assert all(rate > 0 for row in report.rows for rate in row.spans_per_s)
    assert len(report.watch_ms) == 3
    console = Console(width=130, file=io.StringIO(), record=True)
    otlp_report.show(report, console)
    assert "The Collector was not there" in console.export_text()
