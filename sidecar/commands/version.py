"""The installed version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def our_version() -> str:
    """The version of the installed package, or `unknown` in a bare source tree."""
    try:
        return version("lakehouse-observer")
    except PackageNotFoundError:
        return "unknown"
