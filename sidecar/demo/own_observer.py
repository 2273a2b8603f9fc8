"""Runs the demo's observer in this process, with settings of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from sidecar.demo.run_folder import RunFolder
from sidecar.errors import StartError
from sidecar.pipeline.observer import Observer
from sidecar.settings import Settings

CYCLE_S: Final = 2
_PORT: Final = 3800
_PROXY_PORT: Final = 3701  # used with the default port; any free one if a port is given
_NO_MODEL: Final = "http://127.0.0.1:9"  # the discard port: closed, so the diagnosis is the deterministic one
_KEPT_VARIABLES: Final = ("LAKEHOUSE_URL", "OBSERVER_MODEL", "OBSERVER_MODEL_TIMEOUT")


def own_env(env: Mapping[str, str] | None) -> dict[str, str]:
    """The part of *env* that applies: a setting of a real observer must not lead the demo to its data."""
    given = {name: value for name, value in (env or {}).items() if name.startswith("OTEL_") or name in _KEPT_VARIABLES}
    return {"LAKEHOUSE_URL": _NO_MODEL, **given}


@asynccontextmanager
async def own_observer(
    env: Mapping[str, str], gateway_url: str, folder: RunFolder, port: int | None
) -> AsyncIterator[Observer]:
    """A running observer on *port*; None means 3800 or, if that is not available, any. Raises ObserverError."""
    async with AsyncExitStack() as stack:
        try:
            ports = (_PORT, _PROXY_PORT) if port is None else (port, 0)
            settings = _settings(env, gateway_url, folder, *ports)
            observer = await stack.enter_async_context(Observer(settings, env=env))
        except StartError:
            if port is not None:
                raise
            observer = await stack.enter_async_context(Observer(_settings(env, gateway_url, folder, 0, 0), env=env))
        yield observer


def _settings(env: Mapping[str, str], gateway_url: str, folder: RunFolder, port: int, proxy_port: int) -> Settings:
    flags = {
        "gateway_url": gateway_url,
        "gateway_timeout": "1.2",
        "cycle": str(CYCLE_S),
        "port": str(port),
        "health_port": "0",
        "grpc_port": "-1",
        "proxy_port": str(proxy_port),
        "data_dir": str(folder.observer),
        "overseer_corrections_path": str(folder.corrections),
    }
    return Settings.from_env(env, flags)
