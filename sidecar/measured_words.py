"""What a measured effect may be said to be: no figure while its interval holds both good and bad. Pure."""

from __future__ import annotations

from sidecar.model_learning import Measured


def is_known(measured: Measured | None) -> bool:
    """Whether the effect is of one sign, as far as its interval says."""
    return (
        measured is not None
        and measured.low is not None
        and measured.high is not None
        and not (measured.low <= 0.0 <= measured.high)
    )


def effect_words(measured: Measured | None) -> str:
    """`+80 points (+17 to +96), 77 shown, 15 withheld`, or that it is not known yet, and why.

    Tasks of which there is only the agent's own word are told too: they do not move the effect.
    """
    if measured is None:
        return "not measured yet"
    reported = measured.shown.reported + measured.withheld.reported
    told = f"; {reported:,} only reported by agents" if reported else ""
    if measured.effect is None or measured.low is None or measured.high is None:
        return f"not measured yet: no task in both arms{told}"
    between = f"{100 * measured.low:+.0f} {{}} {100 * measured.high:+.0f}"
    arms = f"{measured.shown.tasks:,} shown, {measured.withheld.tasks:,} withheld"
    if not is_known(measured):
        return f"not known yet ({arms}; between {between.format('and')} points){told}"
    return f"{100 * measured.effect:+.0f} points ({between.format('to')}), {arms}{told}"
