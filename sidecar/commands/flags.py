"""A command-line flag for each setting, derived from the settings' own definitions."""

from __future__ import annotations

import argparse
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sidecar.settings import Settings, describe

_PREFIX = "setting:"
SETTING_GROUPS = {
    "gateway_url": "what is observed",
    "host": "ports and the proxy",
    "data_dir": "disk, memory and request limits",
    "token": "access",
    "langfuse_window": "Langfuse",
    "holdout": "advice",
    "model": "model, webhook and gateway calls",
    "grace": "start, stop and log",
    "otlp_endpoint": "export (the standard OpenTelemetry variables)",
}
"""The setting that opens each group of the help text, and of the README's tables."""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting to *parser*; a flag overrides its environment variable."""
    hints = get_type_hints(Settings)
    group: Any = parser
    for field, variable, meaning, default in describe():
        if field in SETTING_GROUPS:
            group = parser.add_argument_group(SETTING_GROUPS[field])
        text = f"{meaning}\n{variable}{_shown(default)}"
        group.add_argument(
            "--" + field.replace("_", "-"),
            dest=_PREFIX + field,
            default=None,
            help=text.replace("`", "").replace("%", "%%"),
            **_form(hints[field], default),
        )


def settings_flags(args: argparse.Namespace) -> dict[str, str]:
    """Field name → text, for the flags that were given."""
    return {
        name.removeprefix(_PREFIX): str(value).lower() if isinstance(value, bool) else value
        for name, value in vars(args).items()
        if name.startswith(_PREFIX) and value is not None
    }


def _shown(default: Any) -> str:
    if isinstance(default, float):
        return f", default {default:g}"
    return f", default {str(default).lower() if isinstance(default, bool) else default}" if default != "" else ""


def _form(hint: Any, default: Any) -> dict[str, Any]:
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {"metavar": "|".join(filter(None, get_args(hint))) if len(get_args(hint)) < 5 else "NAME"}
    return {"metavar": "N" if isinstance(default, int | float) else "TEXT"}
