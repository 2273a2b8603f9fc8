"""The findings of the diagnoses by incident, read from `/incidents`, ordered by their last change. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from sidecar.model import Incident

_COUNTS: Final = re.compile(r" \(\d+ failures?, \d+ success(es)?\)")
_SHARE: Final = re.compile(r"(?:features\.)?([^;=]+)=([^;]*) \((\d+) failures?, (\d+) success(?:es)?\)")
_APART: Final = "common to the failures, rare among the successes: "
_DASH: Final = " — "


class Finding(NamedTuple):
    """The diagnosis of one incident; *failures* is its present count, *why* the explanation, *by* its author."""

    fingerprint: str
    endpoint: str
    message: str
    failures: int
    by: str
    why: str

    @property
    def key(self) -> str:
        """The explanation without its numbers, which change all the time."""
        return _COUNTS.sub("", self.why)

    @property
    def is_open(self) -> bool:
        """Whether nothing is known yet that sets these failures apart."""
        return self.why.startswith("nothing")


class Findings:
    """The latest finding of each incident. A finding keeps its place if only its numbers change."""

    def __init__(self) -> None:
        self._latest: dict[str, Finding] = {}

    def take(self, incidents: Sequence[Incident]) -> None:
        """Store what changed since the last call."""
        for incident in incidents:
            finding, last = _finding(incident), self._latest.get(incident.fingerprint)
            if finding is None or finding == last:
                continue
            if last is not None and last.key != finding.key:
                del self._latest[incident.fingerprint]
            self._latest[incident.fingerprint] = finding

    def newest_first(self) -> list[Finding]:
        """The findings, newest first; those that explain nothing yet come last."""
        newest = list(reversed(self._latest.values()))
        return sorted(newest, key=lambda finding: finding.is_open)


def _finding(incident: Incident) -> Finding | None:
    if incident.diagnosis is None:
        return None
    said, _, why = " ".join(incident.diagnosis.split()).partition(_DASH)
    return Finding(
        fingerprint=incident.fingerprint,
        endpoint=incident.endpoint,
        message=incident.message,
        failures=incident.count,
        by=incident.diagnosed_by or "?",
        why=_folded((why or said).rstrip(".")),
    )


def _folded(why: str) -> str:
    """*why* with fields of equal numbers grouped: `they share city=Boise, state=ID (4 failures, …)`."""
    if not why.startswith(_APART):
        return why
    fields: dict[tuple[str, str], dict[str, None]] = {}
    for name, value, failures, successes in _SHARE.findall(why.removeprefix(_APART)):
        fields.setdefault((failures, successes), {})[f"{name.strip().removeprefix('features.')}={value}"] = None
    told = [f"{', '.join(names)} ({lost} failures, {won} successes)" for (lost, won), names in fields.items()]
    return f"they share {'; '.join(told)}" if told else why
