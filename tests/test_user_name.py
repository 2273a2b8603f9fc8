"""Who decides, if `--by` does not say."""

from __future__ import annotations

import os
import pwd

from sidecar.commands.user_name import user_name
from sidecar.receivers.hand_body import SOMEONE, said_by_hand

_NO_ACCOUNT = 3_987_654_321


def test_it_is_the_login_name_or_that_of_the_account() -> None:
    """Without variables the account of the process tells; an empty variable is none."""
    assert user_name({"LOGNAME": "anna", "USER": "root"}) == "anna"
    assert user_name({"USER": "ben"}) == "ben"
    account = pwd.getpwuid(os.getuid()).pw_name
    assert user_name({"USER": " "}) == user_name({}) == account
    assert user_name({}, uid=0) == pwd.getpwuid(0).pw_name


def test_whom_nothing_names_is_someone() -> None:
    """A container may have a uid without an account; the doors use the same word."""
    assert user_name({}, uid=_NO_ACCOUNT) == SOMEONE


def test_every_default_is_a_name_that_the_doors_take() -> None:
    """Also that of a user who is called like the observer, or has a name longer than is kept."""
    for login in ("observer", " observer ", "x" * 300, "anna"):
        name = user_name({"USER": login})
        assert said_by_hand(b'{"by": "%b"}' % name.encode()).by == name
