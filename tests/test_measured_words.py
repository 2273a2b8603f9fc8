"""What is said of a measured effect: a figure only where its interval has one sign."""

from __future__ import annotations

import pytest

from sidecar.measured_words import effect_words, is_known
from sidecar.model_learning import ArmResult, Measured


def a_measured(effect: float | None, low: float | None, high: float | None, reported: int = 0) -> Measured:
    shown, withheld = ArmResult(tasks=16, successes=9, reported=reported), ArmResult(tasks=17, successes=6)
    return Measured(shown=shown, withheld=withheld, effect=effect, low=low, high=high)


@pytest.mark.parametrize(
    ("measured", "known", "said"),
    [
        (None, False, "not measured yet"),
        (a_measured(None, None, None), False, "not measured yet: no task in both groups"),
        (
            a_measured(None, None, None, 30),
            False,
            "not measured yet: no task in both groups; 30 only reported by agents",
        ),
        (a_measured(0.19, -0.39, 0.76), False, "not known yet (16 shown, 17 withheld; between -39 and +76 points)"),
        (a_measured(0.19, 0.0, 0.76), False, "not known yet (16 shown, 17 withheld; between +0 and +76 points)"),
        (a_measured(0.8, 0.17, 0.96), True, "+80 points (+17 to +96), 16 shown, 17 withheld"),
        (a_measured(-0.2, -0.4, -0.1), True, "-20 points (-40 to -10), 16 shown, 17 withheld"),
    ],
)
def test_no_figure_while_the_interval_holds_both(measured: Measured | None, known: bool, said: str) -> None:
    """An effect that may be nothing, or harm, is not known yet; what agents only reported is told beside it."""
    assert (is_known(measured), effect_words(measured)) == (known, said)
