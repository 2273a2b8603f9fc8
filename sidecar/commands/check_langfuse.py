"""The checks of `observer doctor` for Langfuse servers: whether they answer and accept the keys."""

from __future__ import annotations

from collections.abc import Awaitable

import httpx

from sidecar.commands.checks_remote import ASK_S, shown, why
from sidecar.commands.finding import Finding, bounded
from sidecar.settings import Settings

_PROJECTS = "/api/public/projects"
_UNKNOWN_KEYS = (401, 403)


def langfuse(settings: Settings) -> list[Awaitable[Finding]]:
    """One check for each configured server."""
    servers = {
        "forward": (
            settings.langfuse_forward_url,
            settings.langfuse_forward_public_key,
            settings.langfuse_forward_secret_key,
        ),
        "pull": (settings.langfuse_pull_url, settings.langfuse_pull_public_key, settings.langfuse_pull_secret_key),
    }
    return [bounded(f"langfuse {what}", server(what, url, keys)) for what, (url, *keys) in servers.items() if url]


async def server(what: str, url: str, keys: list[str]) -> Finding:
    """Whether the server at *url* answers and accepts the *keys*. No answer is only a warning: data waits for it."""
    check, prefix = f"langfuse {what}", f"LANGFUSE_{what.upper()}"
    try:
        async with httpx.AsyncClient(timeout=ASK_S, auth=(keys[0], keys[1])) as client:
            answer = await client.get(url.rstrip("/") + _PROJECTS)
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        return Finding(check, "warn", f"{shown(url)}: {why(exc)}", f"Start the server, or correct {prefix}_URL")
    if answer.status_code in _UNKNOWN_KEYS:
        fix = f"Correct {prefix}_PUBLIC_KEY and {prefix}_SECRET_KEY"
        return Finding(check, "fail", f"{shown(url)} refuses the keys ({answer.status_code})", fix)
    if answer.status_code != 200:
        fix = f"Is {prefix}_URL a Langfuse server?"
        return Finding(check, "warn", f"{shown(url)} answered {answer.status_code}", fix)
    return Finding(check, "ok", f"{shown(url)} accepts the keys")
