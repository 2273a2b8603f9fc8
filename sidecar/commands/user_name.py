"""The name under which a person decides who gave none with `--by`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from typing import Final

_NOBODY_KNOWN: Final = "someone"
_TAKEN: Final = "observer"  # the observer's own decisions have that name, so its doors refuse it
_MOST: Final = 100  # characters that the doors take


def user_name(env: Mapping[str, str], uid: int | None = None) -> str:
    """The login name in *env*, else the name of the account *uid* (this process's), else "someone"."""
    named = next((name for each in ("LOGNAME", "USER") if (name := env.get(each, "").strip())), "") or _account(uid)
    return "user observer" if named == _TAKEN else named[:_MOST] or _NOBODY_KNOWN


def _account(uid: int | None) -> str:
    try:
        return pwd.getpwuid(os.getuid() if uid is None else uid).pw_name
    except KeyError:  # a container may run as a uid without an account
        return ""
