"""`observer doctor`: checks everything that an observer needs, concurrently, and says what to fix.

Each check takes at most 5 seconds. Suitable for a pipeline before a deployment, and inside a running pod: exit status
0 if nothing failed, 1 if something did, 64 if the settings are wrong. Not for an init container of the gateway's own
pod: it would wait for a gateway that starts after it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import textwrap
from collections.abc import Awaitable, Mapping, Sequence

import httpx
import msgspec

from sidecar.commands import check_collector, check_grpc, check_langfuse, check_proxy, checks_local, checks_remote
from sidecar.commands.finding import Finding, bounded, in_thread
from sidecar.commands.flags import settings_flags
from sidecar.commands.terminal import Terminal
from sidecar.errors import SettingsError
from sidecar.settings import VARIABLES, Settings, doubts

_EXIT_FAILED, _EXIT_SETTINGS = 1, 64
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "alarm"}
_LEAST_NAME = 13  # columns


class _Report(msgspec.Struct):
    ok: bool
    failed: int
    warned: int
    checks: list[Finding]


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Run the checks, print them, and return the exit status."""
    flags = settings_flags(args)
    status = 0
    try:
        settings = Settings.from_env(env, flags)
        findings = [_settings(settings, env, flags), *asyncio.run(_check(settings, env, offline=args.offline))]
    except SettingsError as exc:
        findings = [Finding("settings", "fail", f"{exc.args[0]}: {exc.args[1]}", exc.args[2])]
        status = _EXIT_SETTINGS
    report = _Report(
        ok=not any(finding.status == "fail" for finding in findings),
        failed=sum(finding.status == "fail" for finding in findings),
        warned=sum(finding.status == "warn" for finding in findings),
        checks=findings,
    )
    terminal = Terminal(sys.stdout, env)
    if args.json:
        terminal.write(msgspec.json.encode(report).decode())
    else:
        _print(terminal, report)
    return status or (0 if report.ok else _EXIT_FAILED)


def _settings(settings: Settings, env: Mapping[str, str], flags: Mapping[str, str]) -> Finding:
    found = doubts(settings)
    if found:
        told = "; ".join(f"{what}: {why}" for what, why, _ in (doubt.args for doubt in found))
        return Finding("settings", "warn", told, ". ".join(dict.fromkeys(doubt.args[2] for doubt in found)))
    known = [variable for field, variable in VARIABLES.items() if env.get(variable) and field not in flags]
    given = [*known, *(f"--{field.replace('_', '-')}" for field in flags)]
    return Finding("settings", "ok", f"good; given: {', '.join(given)}" if given else "good; all are the defaults")


async def _check(settings: Settings, env: Mapping[str, str], *, offline: bool) -> Sequence[Finding]:
    """All findings, in the order of a reader's interest. Raises SettingsError."""
    access = bounded("access", in_thread(lambda: checks_local.access(settings, env)))
    folders = [
        bounded("corrections", in_thread(lambda: checks_local.corrections(settings))),
        bounded("data folder", in_thread(lambda: checks_local.data_folder(settings))),
    ]
    if offline:
        return [*await asyncio.gather(access, *folders), checks_local.clock(None)]
    # As in the pipeline: no HTTP proxy between us and services beside us.
    async with httpx.AsyncClient(timeout=checks_remote.ASK_S, trust_env=False) as client:
        skews: list[float | None] = [None]

        async def gateway() -> Finding:
            finding, skews[0] = await checks_remote.gateway(settings, client)
            return finding

        findings = await asyncio.gather(
            access,
            bounded("gateway", gateway()),
            bounded("model", checks_remote.model(settings, client), late="warn"),
            *check_collector.collectors(settings),
            *folders,
            bounded(
                "http port",
                checks_remote.port("http", settings.host, settings.port, settings.tls_cert),
            ),
            bounded("grpc port", _grpc_port(settings)),
            *_otlp_http_port(settings),
            *check_langfuse.langfuse(settings),
            bounded("proxy port", check_proxy.proxy_port(settings)),
            bounded("health port", checks_remote.port("health", settings.health_host, settings.health_port, "")),
        )
        return [*findings, checks_local.clock(skews[0])]


async def _grpc_port(settings: Settings) -> Finding:
    free = await checks_remote.port("grpc", settings.host, max(settings.grpc_port, 0), "")
    return await check_grpc.grpc_port(settings.host, settings.grpc_port, free, settings.tls_cert)


def _otlp_http_port(settings: Settings) -> list[Awaitable[Finding]]:
    """The check of that port, if there is one."""
    if settings.otlp_http_port < 0:
        return []
    check = checks_remote.port("otlp-http", settings.host, settings.otlp_http_port, settings.tls_cert)
    return [bounded("otlp-http port", check)]


def _print(terminal: Terminal, report: _Report) -> None:
    name_width = max(_LEAST_NAME, *(len(finding.check) + 1 for finding in report.checks))
    for finding in report.checks:
        _print_finding(terminal, finding, name_width)
    done = f"{len(report.checks)} check{'s' if len(report.checks) > 1 else ''}"
    counts = f"{done}: {report.failed} failed, {report.warned} with a warning"
    terminal.write(counts if terminal.width is None else "\n" + terminal.paint(counts, _COLOURS[_worst(report)]))


def _worst(report: _Report) -> str:
    return "fail" if report.failed else "warn" if report.warned else "ok"


def _print_finding(terminal: Terminal, finding: Finding, name_width: int) -> None:
    """One line, or on a terminal as many as needed, with the fix on lines of its own."""
    mark = terminal.paint(finding.status.ljust(4), _COLOURS[finding.status])
    width = terminal.width
    if width is None:
        sentence = ". ".join(filter(None, [finding.found, finding.fix]))
        terminal.write(f"{mark}  {finding.check.ljust(name_width)}{sentence}")
        return
    room = max(30, min(width, 120) - name_width - 6)
    lines = textwrap.wrap(finding.found, room, break_on_hyphens=False)
    fixes = (
        textwrap.wrap(f"→ {finding.fix}", room, subsequent_indent="  ", break_on_hyphens=False) if finding.fix else []
    )
    painted = [*lines, *(terminal.paint(line, "bold") for line in fixes)]
    for number, line in enumerate(painted):
        terminal.write((f"{mark}  {finding.check.ljust(name_width)}" if number == 0 else " " * (name_width + 6)) + line)
