"""The installed version."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def our_version() -> str:
    """The version of the installed package, or `0+unknown` in a bare source tree."""
    try:
        return version("lakehouse-observer")
    except PackageNotFoundError:
        return "0+unknown"
