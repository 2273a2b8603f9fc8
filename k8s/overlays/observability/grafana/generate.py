"""Writes the dashboards: `python k8s/overlays/observability/grafana/generate.py`, or `make dashboards`.

What a panel asks is data here; what Grafana wants around it is in panels.py. The tests check that the
JSON files are what this writes, and that every query finds something in a real run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from panels import SERVICE, dashboard, jaeger, over_time, stat, table, tempo

FOLDER: Final = Path(__file__).with_name("dashboards")
MINE: Final = 'instance=~"$instance"'
PER_S: Final = "[$__rate_interval]"
FAILED: Final = 'outcome="failure", ' + MINE
SUCCEEDED: Final = 'outcome="success", ' + MINE


def _ops(by: str, filters: str, metric: str = "observer_ops_total") -> str:
    return f"sum{by} (rate({metric}{{{filters}}}{PER_S}))"


def _share(by: str) -> str:
    """Failures, as first recorded and as corrected since, per operation; not below 0: a correction comes later."""
    corrected = "observer_ops_corrected_total"
    failures = f"{_ops(by, FAILED)} + {_ops(by, FAILED, corrected)} - {_ops(by, SUCCEEDED, corrected)}"
    return f"clamp_min({failures}, 0) / {_ops(by, MINE)}"


def _latency(quantile: float, by: str = "le") -> str:
    buckets = f'rate(observer_spans_duration_milliseconds_bucket{{observer_op_source!="", {MINE}}}{PER_S})'
    return f"histogram_quantile({quantile}, sum by ({by}) ({buckets}))"


def _rate(metric: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{{{MINE}}}{PER_S}))"


def _level(metric: str, by: str = "", filters: str = MINE) -> str:
    return f"sum{f' by ({by})' if by else ''} ({metric}{{{filters}}})"


OPERATIONS: Final = [
    [
        stat("Operations", _ops("", MINE), "ops"),
        stat("Failing", _share(""), "percentunit"),
        stat("95 % take at most", _latency(0.95), "ms"),
        stat("Open incidents", _level("observer_incidents", filters='state!~"resolved|ignored", ' + MINE)),
    ],
    [
        over_time("Operations by source", "ops", (_ops(" by (source)", MINE), "{{source}}")),
        over_time("Operations by endpoint", "ops", (f"topk(10, {_ops(' by (endpoint)', MINE)})", "{{endpoint}}")),
    ],
    [
        over_time("Failing, by endpoint", "percentunit", (_share(" by (endpoint)"), "{{endpoint}}")),
        over_time("Failing, by source", "percentunit", (_share(" by (source)"), "{{source}}")),
    ],
    [
        over_time(
            "Failures by kind of error",
            "ops",
            (
                (
                    'sum by (error_type) (rate(observer_spans_calls_total{status_code="STATUS_CODE_ERROR", '
                    f'observer_op_source!="", {MINE}}}{PER_S}))'
                ),
                "{{error_type}}",
            ),
            about="As the Collector counts spans; an operation that named no kind has none.",
        ),
        over_time("How long operations take", "ms", *((_latency(each), f"{each:.0%}") for each in (0.5, 0.95, 0.99))),
    ],
    [
        table(
            "Endpoints",
            ["endpoint"],
            ("operations", "short", f"sum by (endpoint) (increase(observer_ops_total{{{MINE}}}[$__range]))"),
            ("failing", "percentunit", _share(" by (endpoint)").replace(PER_S, "[$__range]")),
            (
                "mean",
                "s",
                (
                    f"sum by (endpoint) (increase(observer_ops_duration_seconds_total{{{MINE}}}[$__range])) / "
                    f"sum by (endpoint) (increase(observer_ops_total{{{MINE}}}[$__range]))"
                ),
            ),
            about="Over the time shown. Beyond a hundred endpoints they share the name _OTHER.",
        )
    ],
    [
        jaeger("Failed, in Jaeger", "", "observer.op.success=false"),
        tempo(
            "Failed, in Tempo",
            f'{{ resource.service.name = "{SERVICE}" && status = error && span.observer.op.source != nil }} '
            "| select(span.observer.op.endpoint, span.observer.op.error, span.observer.op.task)",
        ),
    ],
]


def _succeeded(arm: str) -> str:
    """The share of an entry's tasks in one arm that succeeded."""
    tasks = f'observer_advice_tasks{{arm="{arm}", '
    return f'sum by (entry) ({tasks}outcome="success", {MINE}}}) / sum by (entry) ({tasks}{MINE}}})'


LEARNING: Final = [
    [
        stat("Open incidents", _level("observer_incidents", filters='state!~"resolved|ignored", ' + MINE)),
        stat("Active playbook entries", _level("observer_playbooks", filters='state="active", ' + MINE)),
        stat("Corrections by overseers", _level("observer_corrections_total")),
        stat("Told to the gateway", _level("observer_posts_delivered_total")),
    ],
    [
        over_time("Incidents by state", "short", (_level("observer_incidents", "state"), "{{state}}")),
        over_time("Playbook entries", "short", (_level("observer_playbooks", "state"), "{{state}}")),
    ],
    [
        over_time(
            "Effect by entry",
            "percentunit",
            (f"({_succeeded('shown')}) - ({_succeeded('withheld')})", "{{entry}}"),
            about="Success with the advice less success where it was withheld at random, since the entry is measured. "
            "The interval around it is in /playbooks: do not act on the line alone.",
            least=None,
        ),
        table(
            "Entries",
            ["entry"],
            ("shown", "short", f'sum by (entry) (observer_advice_tasks{{arm="shown", {MINE}}})'),
            ("succeeded", "percentunit", _succeeded("shown")),
            ("withheld", "short", f'sum by (entry) (observer_advice_tasks{{arm="withheld", {MINE}}})'),
            ("succeeded without", "percentunit", _succeeded("withheld")),
            about="Tasks with an outcome, by group: shown the entry, or not.",
        ),
    ],
    [
        over_time("Advice whose outcome is awaited", "short", (_level("observer_advice_open"), "tasks")),
        over_time("Outcomes that never came", "short", (_level("observer_advice_missing", "arm"), "{{arm}}")),
    ],
    [
        over_time(
            "The model",
            "short",
            (f"sum (increase(observer_model_calls_total{{{MINE}}}[$__range]))", "asked"),
            (f"sum (increase(observer_model_failures_total{{{MINE}}}[$__range]))", "gave nothing usable"),
            about="Without an answer, diagnoses are made by counting.",
        ),
        over_time(
            "Posts to the gateway",
            "short",
            (f"sum (increase(observer_posts_delivered_total{{{MINE}}}[$__range]))", "taken"),
            (f"sum (increase(observer_posts_failed_total{{{MINE}}}[$__range]))", "attempts that failed"),
            (_level("observer_posts_waiting"), "waiting"),
            (_level("observer_posts_dead"), "given up"),
        ),
    ],
    [
        jaeger("Diagnoses, in Jaeger", "observer.diagnosis", "", about="Their links lead to the failures."),
        jaeger("Playbook entries, in Jaeger", "observer.playbook", "", about="Their links lead to the evidence."),
    ],
    [
        tempo(
            "Diagnoses, in Tempo",
            '{ name = "observer.diagnosis" } '
            "| select(span.observer.diagnosis.by, span.observer.diagnosis.failures, span.observer.diagnosis.text)",
        ),
        tempo(
            "Corrections, in Tempo",
            '{ span.observer.op.source = "overseer_correction" } '
            "| select(span.observer.op.task_class, span.observer.op.correction)",
        ),
    ],
]

OBSERVER: Final = [
    [
        stat(
            "Lost or refused",
            f"sum (increase(observer_lost_total{{{MINE}}}[$__range]))",
            about="Nothing is dropped in silence: by cause below.",
        ),
        stat("Resident memory", f"max (process_memory_usage_bytes{{{MINE}}})", "bytes"),
        stat("Processor", _rate("process_cpu_time_seconds_total"), "percentunit", "1 is one core"),
        stat("Waiting for the collector", _level("observer_export_waiting_bytes"), "bytes"),
    ],
    [
        over_time(
            "Lost, by cause",
            "short",
            (f"sum by (cause) (increase(observer_lost_total{{{MINE}}}[$__rate_interval]))", "{{cause}}"),
        ),
        over_time(
            "Requests refused, by reason",
            "short",
            (f"sum by (reason) (increase(observer_requests_refused_total{{{MINE}}}[$__rate_interval]))", "{{reason}}"),
        ),
    ],
    [
        over_time(
            "Intake",
            "ops",
            (_rate("observer_events_accepted_total"), "events"),
            (_rate("observer_proxy_calls_total"), "proxied calls"),
            (_rate("observer_otlp_spans_total"), "OTLP spans"),
        ),
        over_time(
            "From record to disk",
            "s",
            (
                (
                    f"{_rate('observer_journal_commit_time_seconds_total', 'journal')} / "
                    f"{_rate('observer_journal_commits_total', 'journal')}"
                ),
                "{{journal}}",
            ),
            about="From a batch's first record to its write, on average.",
        ),
    ],
    [
        over_time(
            "Journals on disk",
            "bytes",
            (_level("observer_journal_kept_bytes", "journal"), "{{journal}}"),
            (_level("observer_spool_size_bytes"), "spool"),
        ),
        over_time("Waiting to be exported", "bytes", (_level("observer_export_waiting_bytes", "from"), "{{from}}")),
    ],
    [
        over_time(
            "Export",
            "ops",
            (_rate("observer_export_spans_total"), "spans"),
            (_rate("observer_export_retries_total"), "retries"),
            (_rate("observer_export_failed_total"), "refused for good"),
            (_rate("observer_export_evicted_total"), "evicted"),
        ),
        over_time(
            "Memory",
            "bytes",
            (f"process_memory_usage_bytes{{{MINE}}}", "{{instance}}"),
            (_level("observer_ring_size_bytes"), "the ring"),
            (_level("observer_requests_inflight_bytes"), "in flight"),
        ),
    ],
    [
        over_time(
            "The last cycle took",
            "s",
            (f"max by (instance) (observer_cycle_duration_seconds{{{MINE}}})", "{{instance}}"),
        ),
        over_time(
            "Trouble",
            "short",
            (f"sum (increase(observer_cycle_step_failures_total{{{MINE}}}[$__rate_interval]))", "steps that failed"),
            (f"sum (increase(observer_journal_errors_total{{{MINE}}}[$__rate_interval]))", "journal errors"),
            (f"sum (increase(observer_state_save_failures_total{{{MINE}}}[$__rate_interval]))", "saves that failed"),
            (f"sum (increase(observer_retention_failures_total{{{MINE}}}[$__rate_interval]))", "bounds not enforced"),
        ),
    ],
]

DASHBOARDS: Final = {
    "operations": ("Agents' operations", OPERATIONS),
    "learning": ("What the observer learns", LEARNING),
    "observer": ("The observer itself", OBSERVER),
}


def written() -> dict[Path, str]:
    """Every file and its text."""
    return {
        FOLDER / f"{uid}.json": json.dumps(dashboard(uid, title, rows), indent=1) + "\n"
        for uid, (title, rows) in DASHBOARDS.items()
    }


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")
