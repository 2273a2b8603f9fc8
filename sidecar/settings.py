"""Settings: read once at the edge from environment and command line, checked, then frozen.

Nothing here opens a port or a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from sidecar.errors import SettingsError
from sidecar.settings_checks import FIX, PREFIX, all_in_one, not_from_you, service_links, unknown
from sidecar.settings_fields import SettingsFields
from sidecar.settings_lists import doubtful_entries
from sidecar.settings_together import contradictions

_SECRET = ("token", "langfuse_forward_secret_key", "langfuse_pull_secret_key")


class Settings(SettingsFields, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings; create it with `from_env`, which checks everything."""

    @classmethod
    def from_env(cls, env: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Settings:
        """Settings from *env*, overridden by *flags* (field name → text). Raises one `SettingsError` for all."""
        links = service_links(env)
        found = [not_from_you(links)] if links else []
        env = {name: text for name, text in env.items() if name not in links}
        found += unknown(env, set(VARIABLES.values()))
        raw: dict[str, str] = {field: env[name] for field, name in VARIABLES.items() if env.get(name, "") != ""}
        raw.update(flags or {})
        values: dict[str, Any] = {}
        for field, text in raw.items():
            try:
                values[field] = _converted(field, text)
            except SettingsError as exc:
                found.append(exc)
        wrong = {*raw} - {*values} | {field for field, name in VARIABLES.items() if name in links}
        settings = cls(**values)
        found += contradictions(settings, VARIABLES, wrong)
        if found:
            raise all_in_one(found)
        return settings


def doubts(settings: Settings) -> list[SettingsError]:
    """What in *settings* is no reason to refuse them, but does not do what it seems to; each with why and the fix."""
    return list(doubtful_entries(settings, VARIABLES))


def describe() -> list[tuple[str, str, str, Any]]:
    """(field, environment variable, meaning, default) of every setting, in order."""
    return [
        (field.name, VARIABLES[field.name], _meta(_HINTS[field.name]).description or "", field.default)
        for field in msgspec.structs.fields(Settings)
    ]


def _meta(hint: Any) -> Meta:
    return next(m for m in reversed(hint.__metadata__) if isinstance(m, Meta) and m.description)


_HINTS = get_type_hints(Settings, include_extras=True)
VARIABLES: dict[str, str] = {
    field.name: (_meta(_HINTS[field.name]).extra or {}).get("env") or PREFIX + field.name.upper()
    for field in msgspec.structs.fields(Settings)
}
"""Field name → environment variable."""


def _converted(field: str, text: str) -> Any:
    try:
        value = msgspec.convert(text.strip(), _HINTS[field], strict=False)
        if isinstance(value, float) and not math.isfinite(value):
            raise msgspec.ValidationError("Expected a finite number")
        return value
    except msgspec.ValidationError as exc:
        shown = "(hidden)" if field in _SECRET else repr(text)
        why = f"expected {expected(field)}" if expected(field) else str(exc)
        raise SettingsError(f"{VARIABLES[field]}={shown} is not usable", why, f"{FIX}, row {VARIABLES[field]}") from exc


def expected(field: str) -> str:
    """The allowed values of *field*, if they are a list of words or have bounds; "" if any text is allowed."""
    hint = _HINTS[field]
    words = get_args(get_args(hint)[0])
    if get_origin(get_args(hint)[0]) is Literal:
        return "one of " + ", ".join(f"`{word}`" for word in words if word)
    bounds = [meta for meta in hint.__metadata__ if isinstance(meta, Meta)]
    least = next((meta.ge for meta in bounds if meta.ge is not None), None)
    most = next((meta.le for meta in bounds if meta.le is not None), None)
    if any(meta.gt is not None for meta in bounds):
        return "a number above 0"
    if least is None:
        return "`true` or `false`" if get_args(hint)[0] is bool else ""
    return f"{least:,} to {most:,}" if most is not None else f"{least:,} or more"
