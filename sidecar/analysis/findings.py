"""Builds the finding of each incident: always by counting, and from a model's answer where that is usable. Pure.

A model's answer is untrusted data: only short lines of text are kept, for people to read. Every incident has a finding;
fields that the model omitted or got wrong are filled from the counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sidecar.analysis.answer_checks import why_unusable
from sidecar.analysis.field_counts import Common
from sidecar.analysis.fingerprint import one_line
from sidecar.analysis.incident_rows import Mark
from sidecar.analysis.model_questions import FIELDS, is_echo, repeats
from sidecar.analysis.rule_fit import RuleSaid
from sidecar.model import Finding, Incident

STATISTICS: Final = "statistics"
MAX_FIELD: Final = 300  # characters
_NOTHING: Final = "nothing sets these apart yet"
_OTHERS_ONLY: Final = "tells other failures apart, not these"
_MAX_FOUND = 50  # objects read from one answer
_MAX_STARTS = 100
_MAX_READ = 16_384  # characters read of an answer: several times what the model was allowed
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")
_DECODER = json.JSONDecoder()


class Sample(NamedTuple):
    """The line of one failure, and the fingerprint of its incident."""

    fingerprint: str
    line: str


def counted_finding(incident: Incident, common: Sequence[Common], said: RuleSaid | None = None) -> Finding:
    """The finding by counts alone, where *common* values set the failures of *incident* apart from the successes.

    If there are none, it uses *said*, which comes from a rule of the endpoint.
    """
    message, endpoint = one_line(incident.message, 120), one_line(incident.endpoint, 80)
    shared = " and ".join(f"{one_line(each.field, 60)}={one_line(each.value, 60)}" for each in common[:2])
    if incident.kind == "slow":
        cause, what = "It works, but takes far longer than its other calls do", "Waiting for it without a time-out"
        adjustment = "Allow for the time it takes, or ask for less at once"
    elif incident.kind == "recurring_correction":
        cause = "The same correction is made again and again: likely a data gap, not drift"
        what = "Correcting it once more by hand"
        adjustment = "Add what the correction says to the data that the task is done with"
    else:
        cause = f"{endpoint} answers: {message}"
        what = "Repeating the call unchanged"
        adjustment = "Change what the message names before the next attempt"
    when = f"Any call of {endpoint}: {_NOTHING}"
    if shared:
        cause += f". Nearly all of these calls have {shared}, and hardly any successful ones"
        adjustment = _instead(incident, adjustment, f"without {shared}")
        what += f" with {shared}"
        when = f"{endpoint} with {shared}"
    elif said is not None and said.fits:
        cause += f". {said.where[0].upper()}{said.where[1:]} {said.rates}"
        adjustment = _instead(incident, adjustment, said.way_out)
        what += f" {said.where}"
        when = f"{endpoint} {said.where}"
    elif said is not None:
        when = f"Any call of {endpoint}: what holds {said.where} {_OTHERS_ONLY}"
    return _finding(STATISTICS, cause=cause, adjustment=adjustment, avoid=what, when=when)


def _instead(incident: Incident, adjustment: str, way_out: str) -> str:
    """What to do where it is known when calls of *incident* go wrong: a failure's message says no more than that."""
    return f"Call it {way_out}" if incident.kind == "failure" else f"{adjustment}, or call it {way_out}"


def sees_nothing(finding: Finding) -> bool:
    """Whether *finding* states that nothing is known to set the failures apart."""
    return finding.when.endswith((_NOTHING, _OTHERS_ONLY))


def is_outdated(finding: Finding, said: RuleSaid) -> bool:
    """Whether *finding* names no difference although *said*, from a newer rule, does."""
    return finding.when.endswith(_NOTHING) or (said.fits and finding.when.endswith(_OTHERS_ONLY))


def known_mark(incident: Incident) -> Mark:
    """The diagnosis of an incident that is not a failure: its kind explains it, so no model is asked."""
    finding = counted_finding(incident, ())
    text = finding_text(incident, finding)
    return Mark(incident.count, 1, incident.last_seen, "", STATISTICS, text, finding)


def model_findings(text: str, samples: Sequence[Sample], counted: Mapping[str, Finding], by: str) -> dict[str, Finding]:
    """The findings in the answer *text*, by fingerprint; unusable fields are taken from *counted*.

    Empty if nothing is usable. Also reads JSON that is incomplete, truncated or surrounded by other words.
    """
    found: dict[str, Finding] = {}
    for number, said in enumerate(_objects(text)):
        fingerprint = _subject(said, number, samples)
        if fingerprint is None or fingerprint in found:
            continue
        fields = _fields(said)
        if fields["cause"] and _advises(fields["adjustment"], fingerprint, samples):
            plain = counted[fingerprint]
            found[fingerprint] = _finding(by, **{name: fields[name] or getattr(plain, name) for name in FIELDS})
    return found


def advised_finding(answer: str, sample: Sample, counted: Finding, by: str) -> Finding | None:
    """*counted* with the first sentence of *answer* as its adjustment; None if that sentence is unusable."""
    said = _first_sentence(_LIST_MARK.sub("", one_line(answer.strip().split("\n", 1)[0], MAX_FIELD)))
    if is_json(said) or said.endswith(":") or not _usable(said) or not _advises(said, sample.fingerprint, [sample]):
        return None
    return _finding(by, cause=counted.cause, adjustment=said, avoid=counted.avoid, when=counted.when)


def is_json(answer: str) -> bool:
    """Whether *answer* is, or was meant to be, JSON rather than text for people."""
    return answer.lstrip("`json \n\t").startswith(("{", "["))


def finding_text(incident: Incident, finding: Finding) -> str:
    """*finding* as one line for people."""
    said = f"[{one_line(incident.endpoint, 80)}] {finding.cause.rstrip('.')}. Do: {finding.adjustment.rstrip('.')}."
    return f"{said} Avoid: {finding.avoid.rstrip('.')}. When: {finding.when.rstrip('.')}."


def _finding(by: str, **fields: str) -> Finding:
    return Finding(by=by, **{name: one_line(text, MAX_FIELD) for name, text in fields.items()})


def _subject(said: Mapping[str, Any], number: int, samples: Sequence[Sample]) -> str | None:
    """The fingerprint that the object is about: of the line that it names, else of the line at its own position."""
    line = said.get("failure")
    if isinstance(line, bool) or not isinstance(line, int) or not 1 <= line <= len(samples):
        line = number + 1
    return samples[line - 1].fingerprint if line <= len(samples) else None


def _fields(said: Mapping[str, Any]) -> dict[str, str]:
    """The fields of *said*, empty if unusable or equal to an earlier field."""
    found: dict[str, str] = {}
    for name in FIELDS:
        text = _usable(said.get(name))
        found[name] = "" if text in found.values() else text
    return found


def _usable(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    text = one_line(value, MAX_FIELD)
    return "" if why_unusable(text) is not None or is_echo(text) else text


def _advises(text: str, fingerprint: str, samples: Sequence[Sample]) -> bool:
    """Whether *text* adds something to the failure's own line, in more than one word (if its script has words)."""
    if text.isascii() and len(text.split()) < 2:
        return False
    return not any(repeats(text, each.line) for each in samples if each.fingerprint == fingerprint)


def _first_sentence(text: str) -> str:
    end = _SENTENCE_END.search(text)
    return text[: end.end()] if end else text


def _objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects with a `cause` in *text*, in order, whatever surrounds them and even if truncated."""
    text = text[:_MAX_READ]
    at, found, starts = text.find("{"), 0, 0
    while at >= 0 and found < _MAX_FOUND and starts < _MAX_STARTS:
        starts += 1
        after = text.find("{", at + 1)
        value, end = _read(text, at)
        if value is None:
            at = after
            continue
        for said in _with_cause(value):
            found += 1
            yield said
        at = text.find("{", end)


def _read(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at *at*, and its end; (None, 0) if there is none. A truncated object is completed."""
    for missing in ("", '"}', "}"):
        try:
            return _DECODER.raw_decode(text + missing, at)
        except (ValueError, RecursionError):
            continue
    return None, 0


def _with_cause(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict) and isinstance(value.get("cause"), str):
        yield value
    elif isinstance(value, dict | list) and depth < 3:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _with_cause(each, depth + 1)
