"""`observer mcp`: an MCP server for a running observer, over stdio or, on loopback, streamable HTTP."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import socket
import sys
from collections.abc import Mapping
from typing import Any

from sidecar.commands.observer_client import observer_client
from sidecar.commands.terminal import Terminal
from sidecar.errors import StartError
from sidecar.version import our_version

_HOST = "127.0.0.1"


def main(args: argparse.Namespace, env: Mapping[str, str]) -> int:
    """Serve until the client disconnects (stdio) or until stopped (HTTP). Raises StartError, AskError."""
    module = _mcp_server()
    with observer_client(args.url, args.token, env) as observer:
        server = module.mcp_server(observer, our_version())
        if args.http is None:
            server.run("stdio")
        else:
            asyncio.run(_serve(server, args.http, Terminal(sys.stderr, env)))
    return 0


def _mcp_server() -> Any:
    try:
        return importlib.import_module("sidecar.commands.mcp_server")
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.split(".")[0] != "mcp":
            raise
        raise StartError(
            "the MCP server cannot start",
            "the package `mcp` is not installed",
            "Install it: pip install '.[mcp]'",
        ) from exc


async def _serve(server: Any, port: int, notes: Terminal) -> None:
    uvicorn = importlib.import_module("uvicorn")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((_HOST, port))
        except OSError as exc:
            raise StartError(
                f"the MCP server cannot listen on {_HOST}:{port}", str(exc), "Choose another port with --http"
            ) from exc
        config = uvicorn.Config(
            server.streamable_http_app(host=_HOST), log_level="warning", timeout_graceful_shutdown=1
        )
        notes.write(f"MCP at http://{_HOST}:{sock.getsockname()[1]}/mcp")
        await uvicorn.Server(config).serve(sockets=[sock])
