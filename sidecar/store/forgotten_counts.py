"""Finds and removes one person's share in aggregated counts: saved rows of incidents, endpoints and rules.

Pure functions on rows as decoded JSON. A count only gives an upper bound for how many ops were theirs: a value that
more ops had was not theirs alone, and stays. What cannot be told apart is removed, unless nothing names the person.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any, Final

from sidecar.call_fields import FIELDS, feature_name
from sidecar.packed import NUMBER_BYTES, SPAN_BYTES, numbers, without
from sidecar.store.forgotten_person import FIELD, Person, counted_as

Row = dict[str, Any]

_OTHER: Final = "_OTHER"  # the key under which counts sum up what they had no room for
_BY_LENGTH: Final = 100
_MOST_FIELDS: Final = 32  # bound of counts; beyond it, a field that is missing may still have occurred
_SHEET_FIELDS, _SHEET_COLUMNS = 73, 32  # the same bounds for a sheet
_NAMES: Final = (FIELD, feature_name(FIELD))
_WORK: Final = tuple(field for field in FIELDS if field != FIELD)  # fields that identify nobody


def at_most(counts: Row, person: Person) -> int:
    """The largest number of ops in `FieldCounts` *counts* that may be theirs."""
    if not person.is_known:
        return 0
    values, beyond, found = counts.get("values", {}), counts.get("beyond", {}), 0
    for name in _NAMES:
        if name in values:
            known = values[name]
            found += known.get(counted_as(person.staffer_id), beyond.get(name, 0))
        elif name == FIELD and len(values) >= _MOST_FIELDS:
            found += counts.get("seen", 0)
    return int(min(found, counts.get("seen", 0)))


def incident_at_most(row: Row, person: Person) -> int:
    """The largest number of an incident's failures that may be theirs."""
    if not person.is_known:
        return 0
    by_staffer = row["incident"].get("by_staffer", {})
    own = by_staffer.get(counted_as(person.staffer_id, _BY_LENGTH), by_staffer.get(_OTHER, 0))
    values = row["counts"].get("values", {}).get(_NAMES[1], {})
    return int(own + values.get(counted_as(person.staffer_id), 0))


def suspects(counts: Row, most: int) -> set[str]:
    """The values that at most *most* ops had."""
    found = (values.items() for values in counts.get("values", {}).values())
    return {value for each in found for value, count in each if count <= most}


def clean_counts(counts: Row, most: int, person: Person) -> None:
    """Remove the values that were theirs alone, if at most *most* ops were theirs; other values keep their counts."""
    if not most:
        return
    gone = suspects(counts, most)
    for field, values in counts.get("values", {}).items():
        for value in [value for value in values if value in gone and person.is_alone(value)]:
            count = values.pop(value)
            counts["pairs"] = counts.get("pairs", 0) - 1
            if field not in _NAMES:
                counts.setdefault("beyond", {}).setdefault(field, 0)
                counts["beyond"][field] += count


def sheet_names(sheet: Row, person: Person) -> set[str]:
    """Values of a sheet that certainly only they had, without the fields that describe the work."""
    theirs = _theirs(sheet, person, surely=True)
    return {value for field, value in _alone(sheet, theirs) if field not in (*_WORK, *_NAMES)}


def sheet_suspects(sheet: Row, person: Person) -> set[str]:
    """Values of a sheet that possibly only they had."""
    return {value for _, value in _alone(sheet, _theirs(sheet, person))}


def clean_rules(row: Row, person: Person) -> None:
    """Remove what was theirs alone from an endpoint's sheet and rules, with the rules that depend on it."""
    sheet = row["sheet"]
    theirs = _theirs(sheet, person)
    gone = {(field, value) for field, value in _alone(sheet, theirs) if person.is_alone(value)}
    for field, column in sheet.get("fields", {}).items():
        _clean_column(column, {value for name, value in gone if name == field}, theirs)
    if "fields" in sheet:
        sheet["fields"] = {person.masked_id(field): column for field, column in sheet["fields"].items()}
    for border in row.get("borders", []):
        border["field"] = person.masked_id(border["field"])
    if gone:
        sheet["columns"] = sheet.get("columns", 0) - len(gone)
    if theirs and "refs" in sheet:
        sheet["refs"] = b64encode(without(b64decode(sheet["refs"]), SPAN_BYTES, theirs)).decode()
    gone |= {(name, counted_as(person.staffer_id)) for name in _NAMES}
    for name in ("suspects", "leading", "fallen", "earlier", "found"):
        if name in row:
            row[name] = [each for each in row[name] if not _is_on(_together(each), gone)]


def _clean_column(column: Row, gone: set[str], theirs: int) -> None:
    """Remove the values *gone* and the numbers of the ops *theirs*: those ops only count as having some value."""
    before = beyond = _bits(column.get("beyond", ""))
    for value in gone:
        beyond |= _bits(column["values"].pop(value))
    early = b64decode(column.get("early", ""))
    kept = without(early, NUMBER_BYTES, theirs)
    for at, _ in numbers(early if "parts" not in column else b""):  # those in parts still count in their bin
        beyond |= (1 << at) & theirs
    if kept != early:
        column["early"] = b64encode(kept).decode()
    if beyond != before:
        column["beyond"] = _base64(beyond)


def _theirs(sheet: Row, person: Person, *, surely: bool = False) -> int:
    """A bit mask of the sheet's ops that may be theirs (*surely*: that certainly are)."""
    if not person.is_known:
        return 0
    fields, found = sheet.get("fields", {}), 0
    for name in _NAMES:
        column = fields.get(name)
        known = column.get("values", {}).get(counted_as(person.staffer_id)) if column is not None else None
        if known is not None:
            found |= _bits(known)
        elif surely:
            continue
        elif column is not None:
            found |= _bits(column.get("beyond", ""))
        elif name == FIELD and (len(fields) >= _SHEET_FIELDS or sheet.get("columns", 0) >= _SHEET_COLUMNS):
            found |= (1 << sheet.get("ops", 0)) - 1  # there was no room to count the field
    return found


def _alone(sheet: Row, theirs: int) -> list[tuple[str, str]]:
    """The (field, value) pairs that only ops in the bit mask *theirs* had."""
    return [
        (field, value)
        for field, column in sheet.get("fields", {}).items()
        for value, encoded in column.get("values", {}).items()
        if (bits := _bits(encoded)) and not bits & ~theirs
    ]


def _together(each: Any) -> list[Row]:
    """The conditions of a conjunction, or of an established rule."""
    found: list[Row] = each if isinstance(each, list) else each["rule"]["conditions"]
    return found


def _is_on(together: list[Row], gone: set[tuple[str, str]]) -> bool:
    return any(each["kind"] == "is" and (each["field"], each.get("value", "")) in gone for each in together)


def _bits(encoded: str) -> int:
    return int.from_bytes(b64decode(encoded), "little")


def _base64(bits: int) -> str:
    return b64encode(bits.to_bytes((bits.bit_length() + 7) // 8, "little")).decode()
