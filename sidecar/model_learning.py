"""What flows between what learns: playbook entries and decisions on them, exposures, advice, outcomes.

Frozen like the other messages (`model`), but for the rows that are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from sidecar.call_fields import NOTHING_SAID
from sidecar.model import Scalar, SpanRef


def is_wordless(text: str) -> bool:
    """Whether *text* is that of a pattern in which nothing is said; once it was made of summaries that say nothing."""
    if text == NO_PATTERN:
        return True
    said = text.removeprefix(PATTERN).split(";") if text.startswith(PATTERN) else [text]
    return all(NOTHING_SAID.startswith(each.strip()) for each in said)  # the last one may be cut off


class Range(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A number *above* one bound and at most *up_to* the other; either may be open."""

    above: float | None = None
    up_to: float | None = None


Term = str | bool | int | float | None | Range
"""What a field is, or is to be: a value, a number within a range, or (None) left out."""

EntryKind = Literal["do", "avoid", "correction"]
EntryState = Literal["candidate", "active", "retired"]
EntryAction = Literal["approve", "promote", "retire", "restore", "retry"]
PATTERN: Final = "common pattern: "
NO_PATTERN: Final = f"{PATTERN}none that these calls tell of"
"""The text of an entry whose calls succeed, but said nothing of their inputs."""


class PlaybookEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What works at an endpoint. Append-only: a material change is a new *version* under the same id.

    It holds where the call meets all of *when*; *set* is what to do then. *rate* of the *calls* like that succeeded,
    *other_rate* of the *other_calls*. *plain*: made of nothing but names and values that are harmless by their form
    and were met in several tasks, so that agents may be told without a person having read it. *scope* has the
    conditions that its id is made of; *came_from* names the entries that this one took the place of; *author* made
    this version.
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
        """Whether there is anything in it that an agent could act on."""
        return bool(self.when or self.set) or not is_wordless(self.text)


class EntryChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision on an entry's state: by a person, by its measured effect (`numbers`), or as its rule came or went.

    *who* is the person, as far as they said. One that nobody made by hand says how many decisions on the entry it was
    *judged_from*: it has no effect where another came between. `retry` is another trial, from an active entry's own
    numbers.
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
    """An entry as it is kept: its *versions*, oldest first, and what was decided on it, *decided* times in all.

    *approved* is the version that a person approved last, 0 where none; no other is told for its sake. *forgotten*
    counts versions and changes that had to make room; the first of each stays, and so do the versions that matter.
    """

    versions: list[PlaybookEntry]
    state: EntryState = "candidate"
    approved: int = 0
    changes: list[EntryChange] = []
    forgotten: int = 0
    decided: int = 0

    def due(self, action: EntryAction, at: str, by: Literal["numbers", "rule"], why: str) -> EntryChange:
        """The change that follows at the moment *at* from how the entry is now, and holds for that alone."""
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
        """The version that agents may be told: the latest that is plain or approved; None where none says anything."""
        for entry in reversed(self.versions):
            if entry.says_something and (entry.plain or entry.version == self.approved):
                return entry
        return None

    @property
    def spare(self) -> int:
        """The place of the version that is missed least: neither first, newest, approved, nor told."""
        told = self.told
        needed = {self.approved, self.latest.version, told.version if told is not None else 0}
        return next(at for at, entry in enumerate(self.versions) if at and entry.version not in needed)


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm of an entry. Of the *assigned* tasks, those with an outcome that was seen are *tasks*.

    *reported* have only the agent's word, *missing* nothing in time, *informed* read the playbook by themselves.
    """

    tasks: int = 0
    successes: int = 0
    assigned: int = 0
    reported: int = 0
    missing: int = 0
    informed: int = 0


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an entry helps: the *effect* is the difference of the arms' success rates, between *low* and *high*.

    The interval holds whenever one looks; None before both arms have a task.
    """

    shown: ArmResult
    withheld: ArmResult
    effect: float | None = None
    low: float | None = None
    high: float | None = None


class Avoided(msgspec.Struct, frozen=True, kw_only=True):
    """Failures that advice avoided, over all that were told of anything: *value*, between *low* and *high*."""

    value: float
    low: float
    high: float


class PlaybookView(PlaybookEntry, frozen=True, kw_only=True, omit_defaults=True):
    """An entry as the doors give it: its latest version, its state, the version that a person approved, its effect."""

    state: EntryState
    approved: int = 0
    measured: Measured | None = None


class PlaybookHistory(PlaybookView, frozen=True, kw_only=True, omit_defaults=True):
    """The same with everything that was, and the version that agents may be *told*, None where there is none.

    *forgotten* versions and changes are in the journal only.
    """

    told: PlaybookEntry | None = None
    versions: list[PlaybookEntry]
    changes: list[EntryChange]
    forgotten: int = 0


class Assignment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the coin fell for one entry: *shown* with probability *propensity*."""

    playbook_id: str
    version: int
    propensity: float
    shown: bool


class Exposure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision: what was eligible for a task (where it has no name: for this exposure), and how the coins fell.

    An outcome counts until the moment *until*; the call whose span is *during* is none.
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
    """A decision: what an agent says came of an exposure."""

    exposure_id: str
    at: str
    success: bool


class InformedTask(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: *task* read the playbook otherwise, whatever its coins said."""

    task: str
    at: str


class CycleMark(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: at this place among the ops a cycle looked for rules, and closed what was overdue."""

    at: str


class AdviceQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is about to do: *facts* are the call's fields and features; *given* are those it cannot change.

    They are named as in entries (`call_fields`). *during*: the span of a call that is under way already, and so is no
    outcome of what is told now. *carries*: whether the door has room for such advice; what it has none for is not
    offered, so no coin decides what is cut off.
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
    """One entry as an agent is told it. *effect* is the uplift measured so far, None before there is one."""

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
    """What to do or avoid now. No *exposure_id*: nothing was eligible, and nothing is to be reported.

    More is known of calls of which other facts are known too: those that it *depends_on*, names only.
    """

    exposure_id: str | None
    advice: list[AdviceItem]
    depends_on: list[str] = []
