"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.crash.disk import remove_shim


@pytest.fixture(scope="session", autouse=True)
def shim_is_removed() -> Iterator[None]:
    """The fault layer, if one was compiled, goes away with the session."""
    yield
    remove_shim()
