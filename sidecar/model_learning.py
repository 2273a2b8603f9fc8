"""The messages of learning: playbook entries and decisions on them, exposures, advice, outcomes.

Frozen like the other messages (`model`), except for rows that are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from sidecar.call_fields import NOTHING_SAID
from sidecar.model import Scalar, SpanRef


def is_wordless(text: str, endpoint: str) -> bool:
    """Whether *text* is a pattern of *endpoint* that tells of no input, or only of empty ones."""
    if text == NO_PATTERN:
        return True
    said = [each.strip() for each in text.removeprefix(PATTERN).split(";")] if text.startswith(PATTERN) else [text]
    return all(NOTHING_SAID.startswith(each) or is_bare(each, endpoint) for each in said)  # the last may be truncated


def is_bare(said: str, endpoint: str) -> bool:
    """Whether the summary *said* is the endpoint alone, or with a method before it, as calls through the proxy have."""
    before, _, name = said.strip().rpartition(" ")
    return name == endpoint and (not before or (before.isalpha() and before.isupper()))


class Range(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Numbers greater than *above* and at most *up_to*; either bound may be open."""

    above: float | None = None
    up_to: float | None = None


Term = str | bool | int | float | None | Range
"""A field's value, a range it lies in, or None if it is absent; as a condition, or as what to set."""

EntryKind = Literal["do", "avoid", "correction"]
EntryState = Literal["candidate", "active", "retired"]
EntryAction = Literal["approve", "promote", "retire", "restore", "retry"]
PATTERN: Final = "common pattern: "
NO_PATTERN: Final = f"{PATTERN}none that these calls tell of"
"""The text of an entry whose calls succeed, but have no inputs to describe."""


class PlaybookEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What works at an endpoint. Append-only: a material change is a new *version* under the same id.

    It applies if the call meets all of *when*; *set* is what to do then. *rate* of such *calls* succeeded, *other_rate*
    of the *other_calls*. *plain*: it consists only of names and values that are harmless by their form and occurred in
    several tasks, so agents may be told it before a person has read it. *scope* has the conditions from which its id
    was made; *came_from* names the entries that it replaced; *author* made this version.
    """

    playbook_id: str
    version: int
    at: str
    kind: EntryKind
    endpoint: str
    text: str
    successes: int
    avg_duration_ms: float
    evidence: list[SpanRef] = []
    when: dict[str, Term] = {}
    set: dict[str, Term] = {}
    rate: float | None = None
    other_rate: float | None = None
    calls: int = 0
    other_calls: int = 0
    plain: bool = False
    author: Literal["successes", "rule", "import"] = "successes"
    scope: list[str] = []
    came_from: list[str] = []

    @property
    def says_something(self) -> bool:
        """Whether it contains anything that an agent could act on."""
        return bool(self.when or self.set) or not is_wordless(self.text, self.endpoint)


class EntryChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision on an entry's state: by a person, by its measured effect (`numbers`), or as its rule came or went.

    *who* is the person, as far as they said. An automatic change says after how many decisions on the entry it was
    *judged_from*, and has no effect if another decision was made since. `retry` starts another trial, as decided from
    an active entry's own numbers.
    """

    playbook_id: str
    at: str
    action: EntryAction
    by: Literal["person", "numbers", "rule", "import"]
    version: int
    why: str = ""
    judged_from: int | None = None
    who: str = ""


class EntryRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An entry as kept: its *versions*, oldest first, and the decisions on it, *decided* in total.

    *approved* is the version that a person approved last, 0 for none; approval does not carry over to other versions.
    *forgotten* counts evicted versions and changes; the first of each is kept, and so are the versions in use.
    """

    versions: list[PlaybookEntry]
    state: EntryState = "candidate"
    approved: int = 0
    changes: list[EntryChange] = []
    forgotten: int = 0
    decided: int = 0

    def due(self, action: EntryAction, at: str, by: Literal["numbers", "rule"], why: str) -> EntryChange:
        """A change from the entry's present state at the time *at*; void if another decision comes first."""
        entry = self.latest
        return EntryChange(
            playbook_id=entry.playbook_id,
            at=at,
            action=action,
            by=by,
            version=entry.version,
            why=why,
            judged_from=self.decided,
        )

    @property
    def latest(self) -> PlaybookEntry:
        """The newest version."""
        return self.versions[-1]

    @property
    def told(self) -> PlaybookEntry | None:
        """The version that agents may be told: the latest plain or approved one that says something, else None."""
        for entry in reversed(self.versions):
            if entry.says_something and (entry.plain or entry.version == self.approved):
                return entry
        return None

    @property
    def spare(self) -> int:
        """The index of the version to evict first: neither the first, the newest, the approved nor the told one."""
        told = self.told
        needed = {self.approved, self.latest.version, told.version if told is not None else 0}
        return next(at for at, entry in enumerate(self.versions) if at and entry.version not in needed)


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One group of an entry's trial. *tasks* are those of the *assigned* tasks whose outcome was observed.

    *reported*: only the agent's own report; *missing*: no outcome in time; *informed*: read the playbook itself.
    """

    tasks: int = 0
    successes: int = 0
    assigned: int = 0
    reported: int = 0
    missing: int = 0
    informed: int = 0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an entry helps: *effect* is the difference of the groups' success rates, between *low* and *high*.

    The interval is valid at any time of looking; None before both groups have a task.
    """

    shown: ArmResult
    withheld: ArmResult
    effect: float | None = None
    low: float | None = None
    high: float | None = None


class Avoided(msgspec.Struct, frozen=True, kw_only=True):
    """The number of failures that advice avoided, over all advised tasks: *value*, between *low* and *high*."""

    value: float
    low: float
    high: float


class PlaybookView(PlaybookEntry, frozen=True, kw_only=True, omit_defaults=True):
    """An entry as the API returns it: its latest version, state, approved version and effect."""

    state: EntryState
    approved: int = 0
    measured: Measured | None = None


class PlaybookHistory(PlaybookView, frozen=True, kw_only=True, omit_defaults=True):
    """A view with the full history, and the version that agents may be *told*, None if there is none.

    *forgotten* versions and changes are only in the journal.
    """

    told: PlaybookEntry | None = None
    versions: list[PlaybookEntry]
    changes: list[EntryChange]
    forgotten: int = 0


class Assignment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of the coin for one entry: *shown* with probability *propensity*."""

    playbook_id: str
    version: int
    propensity: float
    shown: bool


class Exposure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision: the entries eligible for a task (or, if it has no name, for this exposure) and their coins.

    Outcomes count until *until*. The call with the span *during* is not an outcome.
    """

    exposure_id: str
    at: str
    until: str
    endpoint: str
    assignments: list[Assignment]
    task: str | None = None
    door: str = "http"
    during: str | None = None


class ReportedOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision: an agent's report on the outcome of an exposure."""

    exposure_id: str
    at: str
    success: bool


class InformedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: *task* read the playbook by other means, whatever its coins said."""

    task: str
    at: str


class CycleMark(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: at this point in the order of ops, a cycle searched for rules and closed overdue exposures."""

    at: str


class AdviceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is about to do. *facts* are the call's fields and features; it cannot change those *given*.

    Names are as in entries (`call_fields`). *during*: the span of a call already in progress, which is therefore no
    outcome of this advice. *carries*: whether the door has room for an advice. What does not fit is not offered, so
    that no coin is drawn for advice that would be cut off.
    """

    endpoint: str
    facts: dict[str, Scalar]
    task: str | None = None
    given: frozenset[str] = frozenset()
    limit: int = 3
    door: str = "http"
    during: str | None = None
    carries: Callable[[Advice], bool] | None = None


class AdviceItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry as told to an agent. *effect* is what was measured so far, None before there is one."""

    id: str
    version: int
    kind: EntryKind
    state: EntryState
    text: str
    when: dict[str, Term]
    set: dict[str, Term]
    evidence: int
    effect: float | None = None


class Advice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to do or avoid now. Without *exposure_id* nothing was eligible, and nothing need be reported.

    *depends_on*: names of further facts on which entries depend; asked with them, more advice may apply. *hints*: what
    the question lacks, for who writes the agent.
    """

    exposure_id: str | None
    advice: list[AdviceItem]
    depends_on: list[str] = []
    hints: list[str] = []
