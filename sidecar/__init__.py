"""Lakehouse Observer: the third-party witness beside an AI-agent gateway."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.gateway.observed_gateway import ObservedGateway
    from sidecar.model import ObservedOp
    from sidecar.pipeline.observer import Observer
    from sidecar.settings import Settings

__all__ = ["ObservedGateway", "ObservedOp", "Observer", "Settings"]

_HOMES = {
    "ObservedGateway": "sidecar.gateway.observed_gateway",
    "ObservedOp": "sidecar.model",
    "Observer": "sidecar.pipeline.observer",
    "Settings": "sidecar.settings",
}


def __getattr__(name: str) -> Any:
    """Import public names on first access, so that the command line does not load all of them (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
