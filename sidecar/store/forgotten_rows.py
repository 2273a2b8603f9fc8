"""Cleans saved rows, decisions and posts of one person: removes what is theirs, masks their id and texts elsewhere.

The first pass (`look`) finds texts that only they used and endpoints that count them; then each row is cleaned. Rows
are handled as JSON, so the rooms that own them need not run.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sidecar.store.forgotten_counts import (
    Row,
    at_most,
    clean_counts,
    clean_rules,
    incident_at_most,
    sheet_names,
    sheet_suspects,
    suspects,
)
from sidecar.store.forgotten_person import MASK, Person
from sidecar.store.latest_ops import LATEST, without_ops

_DATA_KEYS: Final = ("values", "beyond", "alike", "fields")
"""Members whose own members are named by senders; so are those of `by_…`."""
_LINE: Final = 80  # characters of the endpoint at the start of a failure's line


class CleanedRows:
    """Cleans one folder's rows of *person*. *are_gone*: segments were dropped, so not all of their ops are known."""

    def __init__(self, person: Person, *, are_gone: bool) -> None:
        self._person = person
        self._are_gone = are_gone
        self._endpoints: set[str] = set()  # endpoints that count them, or may
        self._counted: set[str] = set()  # endpoints whose successes are counted by person
        self._incidents: set[str] = set()  # fingerprints of incidents that have, or may have, failures of theirs

    def look(self, table: str, key: str, body: bytes) -> None:
        """Collect what a row of a state file reveals about them."""
        if table == "langfuse":
            self._look_at_fragment(msgspec.json.decode(body)["row"])
        elif table == "incidents":
            self._look_at_counts(key, msgspec.json.decode(body)["row"])
        elif self._are_gone and table == "learning" and key.startswith("rules/"):
            sheet = msgspec.json.decode(body)["row"]["sheet"]
            self._person.candidates |= sheet_suspects(sheet, self._person)
            for name in sheet_names(sheet, self._person):
                self._person.learn_text(name)

    def told(self, body: Row) -> None:
        """Collect which traces of a `langfuse_told` decision are theirs."""
        for fragment in body.get("fragments", []):
            self._look_at_fragment({"fragment": fragment})

    def row(self, table: str, key: str, body: bytes) -> tuple[str, bytes] | None:
        """The row's new key and body; None if the whole row is theirs. Raises msgspec.MsgspecError."""
        if table == LATEST:
            return key, self._person.masked_id_in(without_ops(body, self._person.is_theirs))
        saved = msgspec.json.decode(body)
        sheet = None
        if isinstance(saved, dict) and isinstance(saved.get("row"), dict):
            if not self._clean_row(table, key, saved["row"]):
                return None
            sheet = saved["row"].pop("sheet", None)  # bit masks as text, cleaned already
        clean = self.value(saved)
        if sheet is not None:
            clean["row"]["sheet"] = sheet
        return self._person.masked(key), body if clean == msgspec.json.decode(body) else msgspec.json.encode(clean)

    def decision(self, kind: str, body: Any) -> Any:
        """The cleaned *body* of a decision."""
        if isinstance(body, dict):
            if kind == "langfuse_told":
                body = self._told_clean(body)
            elif kind == "diagnosis" and self._incidents & set(body.get("incidents", ())):
                body = self._diagnosis(body)
            elif kind == "playbook":
                self._entry(body)
        return self.value(body)

    def post(self, body: Any) -> Any:
        """The cleaned JSON *body* of a post. A text made from their lines is blanked: a model may have quoted any."""
        if isinstance(body, dict) and isinstance(body.get("context"), str):
            lines = self._lines(body["context"])
            if lines != body["context"]:
                body = {**body, "context": lines, "result": _blank(str(body.get("result", "")))}
            elif body["context"].removeprefix("endpoint=") in self._endpoints:
                body = {**body, "approach": _blank(str(body.get("approach", "")))}
        return self.value(body)

    def value(self, value: Any, *, is_data: bool = False) -> Any:
        """*value* with their id and texts masked, and without what is counted under the id."""
        if isinstance(value, str):
            return self._person.masked(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            found = {}
            for key, each in value.items():
                if is_data and key == self._person.staffer_id and not isinstance(each, dict):
                    continue
                is_within = is_data or key in _DATA_KEYS or key.startswith("by_")
                found[self._name(key, is_data=is_data)] = self.value(each, is_data=is_within)
            return found
        return value

    def _name(self, key: str, *, is_data: bool) -> str:
        """The cleaned name of a member: either a sender's text, or ours, which may contain the id."""
        if is_data:
            return self._person.masked(key)
        return key if key == self._person.staffer_id else self._person.masked_id(key)

    # --- first pass: collect -------------------------------------------------------------------------------------

    def _look_at_fragment(self, row: Row) -> None:
        fragment = row.get("fragment", row)
        attributes = fragment.get("attributes", {})
        if self._person.staffer_id in (value for value in attributes.values() if isinstance(value, str)):
            self._person.traces.add(fragment["trace_id"])

    def _look_at_counts(self, key: str, row: Row) -> None:
        kind, _, name = key.partition("/")
        if kind == "endpoint":
            self._counted.add(name)
            self._look_at_endpoint(name, row["successes"], at_most(row["successes"], self._person))
        elif kind == "incident" and (most := incident_at_most(row, self._person)):
            incident = row["incident"]
            self._look_at_endpoint(incident["endpoint"], row["counts"], most)
            self._incidents |= {incident["fingerprint"], *incident.get("aliases", ())}
            if most >= incident["count"]:
                for text in (incident["message"], *incident.get("samples", ())):
                    self._person.learn_text(text.removeprefix(f"[{incident['endpoint'][:_LINE]}] "))

    def _look_at_endpoint(self, endpoint: str, counts: Row, most: int) -> None:
        if self._are_gone and most:
            self._endpoints.add(endpoint)
            self._person.candidates |= suspects(counts, most)

    # --- second pass: clean --------------------------------------------------------------------------------------

    def _clean_row(self, table: str, key: str, row: Row) -> bool:
        """Remove what is theirs from the row. Returns False if the whole row must go."""
        kind, _, name = key.partition("/")
        if table == "langfuse":
            about: Row = row.get("fragment") or row.get("score") or row
            return about.get("trace_id") not in self._person.traces
        if kind == "rules":
            clean_rules(row, self._person)
        elif kind == "template" and "templates" in row:
            row["templates"] = [each for each in row["templates"] if not self._tells(" ".join(each["words"]))]
        elif kind == "incident" and self._are_gone:
            return self._clean_incident(row)
        elif kind == "endpoint":
            clean_counts(row["successes"], at_most(row["successes"], self._person), self._person)
        elif kind == "success" and self._are_gone and self._may_count(name):
            row["inputs"] = []
        elif kind == "entry":
            for entry in row["versions"]:
                self._entry(entry)
        return True

    def _may_count(self, endpoint: str) -> bool:
        return self._person.is_known and (endpoint in self._endpoints or endpoint not in self._counted)

    def _tells(self, text: str) -> bool:
        return self._person.masked(text) != text

    def _clean_incident(self, row: Row) -> bool:
        most, incident = incident_at_most(row, self._person), row["incident"]
        if not most:
            return True
        if most >= incident["count"]:
            return False
        incident["samples"] = []  # a sample does not tell whose failure it was
        clean_counts(row["counts"], most, self._person)
        if incident.get("diagnosed_by", "statistics") != "statistics":  # a model may have quoted samples
            incident["diagnosis"], incident["finding"] = None, None
        return True

    def _entry(self, entry: Row) -> None:
        """An entry learnt from successes quotes recent inputs: blank it if the endpoint may count them."""
        if entry.get("author", "successes") == "successes" and entry.get("endpoint") in self._endpoints:
            entry["text"] = _blank(entry["text"])

    def _diagnosis(self, body: Row) -> Row:
        """Clean a diagnosis of an incident they may be part of: blank its failure lines and a model's texts."""
        clean = {**body, "context": self._lines(body.get("context", ""))}
        if body.get("by") != "statistics":
            clean["text"] = _blank(body.get("text", ""))
            if "texts" in body:  # a line may not become longer
                clean["texts"] = {key: _blank(text) for key, text in body["texts"].items()}
            clean["findings"] = {
                key: {name: each if name == "by" else _blank(each) for name, each in finding.items()}
                for key, finding in body.get("findings", {}).items()
            }
        return clean

    def _lines(self, text: str) -> str:
        """*text* with the rest of each `[endpoint] ` line blanked, if the endpoint may count them."""
        marks = {f"[{endpoint[:_LINE]}] " for endpoint in self._endpoints}
        lines = []
        for line in text.split("\n"):
            mark = line[: line.find("] ") + 2]
            lines.append(mark + _blank(line[len(mark) :]) if mark in marks else line)
        return "\n".join(lines)

    def _told_clean(self, body: Row) -> Row:
        """Fragments and scores of their traces keep only ids, times and numbers."""
        clean = dict(body)
        for name in ("fragments", "scores"):
            if name in body:
                clean[name] = [
                    _without_words(each) if each.get("trace_id") in self._person.traces else each for each in body[name]
                ]
        return clean


def _without_words(told: Row) -> Row:
    """A fragment without name and attributes; a score without comment and text value."""
    gone = ("comment",) if "score_id" in told else ("name", "attributes")
    kept = {name: each for name, each in told.items() if name not in gone}
    return {**kept, "value": _blank(kept["value"])} if isinstance(kept.get("value"), str) else kept


def _blank(text: str) -> str:
    """As many asterisks, so that cleaning twice changes nothing."""
    return MASK * len(text)
