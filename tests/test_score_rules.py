"""Which scores mean a failure, by rule and by default."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.errors import SettingsError
from sidecar.langfuse.score_rules import ScoreRules
from sidecar.model import Scalar, Score
from sidecar.pipeline.observer import Observer
from sidecar.spans.conventions_table import FAILING_LABELS
from tests.observers import settings


def rules(text: str = "") -> ScoreRules:
    return ScoreRules(text, FAILING_LABELS)


def a_score(value: Scalar, data_type: str, name: str = "accuracy") -> Score:
    return Score(score_id="s", name=name, at="2026-01-31T08:15:00.000Z", data_type=data_type, value=value)


@pytest.mark.parametrize(
    ("text", "value", "data_type", "failed"),
    [
        ("", 0.0, "NUMERIC", None),
        ("", False, "BOOLEAN", True),
        ("", True, "BOOLEAN", False),
        ("", "Incorrect", "CATEGORICAL", True),
        ("", "lukewarm", "CATEGORICAL", None),
        ("", "fail", "TEXT", None),
        ("accuracy<0.5", 0.49, "NUMERIC", True),
        ("accuracy<0.5", 0.5, "NUMERIC", False),
        ("accuracy<=0.5", 0.5, "NUMERIC", True),
        ("Accuracy > 0.5", 0.6, "NUMERIC", True),
        ("accuracy>=0.5", 0.4, "NUMERIC", False),
        ("accuracy=rude, accuracy=cold", "Cold", "CATEGORICAL", True),
        ("accuracy=rude", "bad", "CATEGORICAL", False),
        ("accuracy=true", True, "BOOLEAN", True),
        ("accuracy=1", True, "BOOLEAN", True),
        ("accuracy=true", False, "BOOLEAN", False),
        ("accuracy=", False, "BOOLEAN", False),
        ("accuracy=3", 3, "NUMERIC", True),
        ("*<0.2", 0.1, "NUMERIC", True),
        ("*<0.2", False, "BOOLEAN", True),
        ("*<0.2,accuracy<0.05", 0.1, "NUMERIC", False),
        ("accuracy=fail", "fail", "CORRECTION", None),
    ],
)
def test_rules_say_which_scores_fail(text: str, value: Scalar, data_type: str, failed: bool | None) -> None:
    """The user's rule for the name, else what the type tells; a number alone tells nothing."""
    assert rules(text).failed(a_score(value, data_type)) is failed


@pytest.mark.parametrize("text", ["accuracy", "<0.5", "accuracy<half", "a<1<2", "accuracy=<3"])
def test_a_rule_that_cannot_be_read_stops_the_start(tmp_path: Path, text: str) -> None:
    """It says which, and what a rule looks like."""
    with pytest.raises(SettingsError, match="OBSERVER_LANGFUSE_FAILING"):
        Observer(settings(tmp_path, OBSERVER_LANGFUSE_FAILING=text), env={})
