"""Describes a measured effect in words; gives no figure while its interval contains zero. Pure."""

from __future__ import annotations

from sidecar.model_learning import Measured


def is_known(measured: Measured | None) -> bool:
    """Whether the interval excludes zero, so that the effect's sign is known."""
    return (
        measured is not None
        and measured.low is not None
        and measured.high is not None
        and not (measured.low <= 0.0 <= measured.high)
    )


def effect_words(measured: Measured | None) -> str:
    """`+80 points (+17 to +96), 77 shown, 15 withheld`; or that the effect is not known yet, and why.

    Tasks known only from the agent's own report are mentioned, but do not contribute to the effect.
    """
    if measured is None:
        return "not measured yet"
    reported = measured.shown.reported + measured.withheld.reported
    told = f"; {reported:,} only reported by agents" if reported else ""
    if measured.effect is None or measured.low is None or measured.high is None:
        return f"not measured yet: no task in both groups{told}"
    between = f"{100 * measured.low:+.0f} {{}} {100 * measured.high:+.0f}"
    arms = f"{measured.shown.tasks:,} shown, {measured.withheld.tasks:,} withheld"
    if not is_known(measured):
        return f"not known yet ({arms}; between {between.format('and')} points){told}"
    return f"{100 * measured.effect:+.0f} points ({between.format('to')}), {arms}{told}"
