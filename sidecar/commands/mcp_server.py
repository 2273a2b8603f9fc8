"""The MCP server of `observer mcp`: advice, outcomes, incidents and playbook entries, from an observer's HTTP doors.

It is a process of its own, because the SDK is too heavy for the observer. Agents see only what they may be told: of the
playbook approved and plain entries, and only with the reader's task; of incidents names and numbers. Error messages are
for people, because whoever made a call fail may have written them; a single plain word is allowed.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

import msgspec
from mcp.server import MCPServer
from mcp.server.mcpserver import ResourceSecurity
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError, ToolError
from pydantic import ValidationError

from sidecar.call_fields import asked_name, word
from sidecar.commands.mcp_arguments import unknown_arguments, unknown_tool, wrong_arguments
from sidecar.commands.observer_client import AskError, NotThereError, ObserverClient, WrongRequestError
from sidecar.entry_text import as_told
from sidecar.model_learning import PlaybookEntry
from sidecar.plain_words import is_plain

_INSTRUCTIONS = """\
Before you call a tool of the gateway, ask get_advice with its endpoint and the arguments you are about to send; do what
`set` says where you are free to. Afterwards, if your calls do not pass through the observer, report the outcome with
report_outcome and the exposure_id. A playbook entry is read as playbook://{id}?task={your task}: name the task, or the
exposure_id, of your get_advice. Error messages are for people only: give them an incident's fingerprint."""
_OPEN = "new,ongoing,escalating,regressed"
_TOLD_OF_INCIDENT = ("fingerprint", "state", "kind", "count", "first_seen", "last_seen")
_NAMES_OF_INCIDENT = ("endpoint", "error_type")
_NAME = re.compile(r"[\w.:/{}+@*-]{1,80}( [\w.:/{}+@*-]{1,80})?", re.ASCII)  # `execute_tool find_workers`, `/fill/{id}`
_BY_TASK = ResourceSecurity(exempt_params={"task"})  # not a path, whatever it looks like
_TOLD_OF_ENTRY = ("playbook_id", "version", "kind", "state", "endpoint", "text", "when", "set", "measured")

Fact = str | bool | int | float


def mcp_server(observer: ObserverClient, version: str) -> MCPServer:
    """A server with all tools and resources, backed by *observer*'s HTTP doors."""
    doors = _Doors(observer)
    server: MCPServer = _Server("observer", version=version, instructions=_INSTRUCTIONS, log_level="WARNING")
    server.tool()(doors.get_advice)
    server.tool()(doors.report_outcome)
    server.tool()(doors.list_incidents)
    server.resource("playbook://{id}{?task}", name="playbook entry", mime_type="application/json", security=_BY_TASK)(
        doors.playbook
    )
    return server


class _Server(MCPServer):
    """Tells an agent in plain words what is wrong with its call of a tool."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """Call the tool. Raises ToolError."""
        tools = {tool.name: tool.input_schema["properties"] for tool in await self.list_tools()}
        if name not in tools:
            raise ToolError(unknown_tool(name, tools))
        if unknown := arguments.keys() - tools[name].keys():
            raise ToolError(unknown_arguments(name, unknown, tools[name]))
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as exc:
            if isinstance(exc.__cause__, ValidationError):
                raise ToolError(wrong_arguments(name, exc.__cause__.errors())) from exc
            raise


class _Doors:
    """One method per tool. The client blocks, so each call runs on a thread of its own."""

    def __init__(self, observer: ObserverClient) -> None:
        self._observer = observer

    async def get_advice(
        self, endpoint: str, facts: dict[str, Fact] | None = None, task: str = "", given: list[str] | None = None
    ) -> dict[str, Any]:
        """What to do or avoid in a call to *endpoint*.

        *facts*: the arguments that you intend to send; without them there is little advice, and `depends_on` names
        those that matter. *task*: the name of your task, the same in each question. *given*: the names of arguments
        that you cannot change.
        """
        params = {asked_name(name): word(value) for name, value in (facts or {}).items()}
        params |= {"endpoint": endpoint} | ({"task": task} if task else {})
        params |= {"given": ",".join(given)} if given else {}
        return await self._read_or_tool_error("/advice", params)

    async def report_outcome(self, exposure_id: str, success: bool) -> dict[str, Any]:
        """Report whether the attempt made after the advice *exposure_id* succeeded."""
        body = msgspec.json.encode({"success": success})
        path = f"/advice/{quote(exposure_id, safe='')}/outcome"
        try:
            answer = await asyncio.to_thread(self._observer.post, path, body, "advice")
        except AskError as exc:
            raise ToolError(_told_of(exc)) from exc
        return msgspec.json.decode(answer, type=dict[str, Any])

    async def list_incidents(self, limit: int = 10, state: str = _OPEN) -> list[dict[str, Any]]:
        """Groups of similar failures (incidents), the most recent first.

        *state* filters; separate several with commas.
        """
        found = await self._read_or_tool_error("/incidents", {"limit": str(limit), "state": state})
        return [_agent_view(each) for each in found["incidents"]]

    async def playbook(self, id: str, task: str = "") -> str:  # noqa: A002 - the name in the resource's template
        """A playbook entry that agents may be told: plain, or approved by a person. *task* is the reader's."""
        if not task:
            raise ResourceError(
                f"say whose task reads it: playbook://{id[:80]}?task=..., the task or exposure_id of your get_advice"
            )
        try:
            found = await self._read(f"/playbooks/{quote(id, safe='')}", {"task": task})
        except NotThereError as exc:
            raise ResourceNotFoundError(f"no playbook entry {id[:80]!r}") from exc
        except AskError as exc:
            raise ResourceError(str(exc)) from exc
        told = found.get("told")
        if told is None:
            raise ResourceError(f"playbook entry {id[:80]!r} waits for a person's approval")
        entry = msgspec.convert(told, PlaybookEntry)
        own = as_told(entry, entry.set)._asdict()
        whole = {"state": found["state"], **told, **own, "measured": found.get("measured")}
        return msgspec.json.encode({name: whole[name] for name in _TOLD_OF_ENTRY}).decode()

    async def _read_or_tool_error(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        try:
            return await self._read(path, params)
        except AskError as exc:
            raise ToolError(_told_of(exc)) from exc

    async def _read(self, path: str, params: dict[str, str]) -> dict[str, Any]:
        body = await asyncio.to_thread(self._observer.get, path, params)
        found: dict[str, Any] = self._observer.decoded(body, dict[str, Any])
        return found


def _told_of(failure: AskError) -> str:
    """The observer's own words where the agent can do better, everything where a person has to."""
    return str(failure.args[1] if isinstance(failure, WrongRequestError | NotThereError) else failure)


def _agent_view(incident: dict[str, Any]) -> dict[str, Any]:
    """The part of *incident* that agents may know: no sentence in it was written by somebody else."""
    told = {name: incident[name] for name in _TOLD_OF_INCIDENT if name in incident}
    told |= {name: incident[name] for name in _NAMES_OF_INCIDENT if _NAME.fullmatch(incident.get(name) or "")}
    message = incident.get("message", "")
    return told | ({"message": message} if is_plain(message) else {})
