"""`observer run`: reads settings, sets up logs and signals, and runs the pipeline until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
from collections.abc import Mapping

import structlog
import uvloop

from sidecar import logs
from sidecar.commands.flags import settings_flags
from sidecar.commands.process import give_back_memory, keep_grpc_quiet, keep_memory_small, raise_file_limit
from sidecar.pipeline.observer import Observer
from sidecar.redaction import Redactor
from sidecar.settings import Settings, doubts
from sidecar.version import our_version

log = structlog.get_logger(__name__)

_INTERRUPTED = 130
_GIVE_BACK_EVERY_S = 15.0


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run until SIGTERM or SIGINT, drain, and return 0. Raises SettingsError, StartError."""
    settings = Settings.from_env(env, settings_flags(args))
    logs.configure(settings.log_format, settings.log_level)
    keep_grpc_quiet(os.environ)
    raise_file_limit()
    keep_memory_small()
    uvloop.run(_watch(settings, env))
    return 0


async def _watch(settings: Settings, env: Mapping[str, str]) -> None:
    stopping, ready = asyncio.Event(), asyncio.Event()
    _handle_signals(stopping)
    log.info(
        "observer.started",
        cycle=settings.cycle,
        gateway=Redactor().text(settings.gateway_url),
        port=settings.port,
        version=our_version(),
    )
    for what, why, fix in (doubt.args for doubt in doubts(settings)):
        log.warning("settings.doubtful", what=what, why=why, fix=fix)
    observer = Observer(settings, env=env)
    beside = [asyncio.create_task(_announce(observer, ready)), asyncio.create_task(_release_memory())]
    try:
        await observer.run(stopping, ready)
    finally:
        for task in beside:
            task.cancel()
    log.info("observer.stopped")


async def _announce(observer: Observer, ready: asyncio.Event) -> None:
    await ready.wait()
    # These objects stay for good: the garbage collector need not scan them again while requests come and go.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    grpc_port = observer.otlp.grpc.port if observer.otlp.grpc is not None else None
    proxy_port = observer.proxy.port if observer.proxy is not None else None
    ports = {
        "port": observer.port,
        "health_port": observer.health_port,
        "grpc_port": grpc_port,
        "proxy_port": proxy_port,
    }
    log.info("observer.ready", pid=os.getpid(), **ports)


async def _release_memory() -> None:
    while True:
        await asyncio.sleep(_GIVE_BACK_EVERY_S)
        gc.collect(1)  # httpx responses are cycles: a few hundred objects now take 1 ms, 10,000 later take ten
        await asyncio.to_thread(give_back_memory)


def _handle_signals(stopping: asyncio.Event) -> None:
    """SIGTERM and the first SIGINT drain; a second SIGINT exits at once, as all acknowledged ops are in the journal."""

    def stop(number: signal.Signals) -> None:
        if stopping.is_set() and number is signal.SIGINT:
            os._exit(_INTERRUPTED)
        log.info("observer.stopping", signal=number.name)
        stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
