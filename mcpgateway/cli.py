"""The command line: `serve`, `stdio`, `check`, `token new`. What is printed to people is written here.

It is made with click, which uvicorn brings along anyway: what the command line loads, a gateway holds for as long as it serves.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from mcpgateway import __version__, app, config, logs, serving
from mcpgateway.auth.tokens import new_token
from mcpgateway.config import Config, ServerConfig
from mcpgateway.config.auth import fault_in_token_name
from mcpgateway.errors import ConfigError

try:
    import uvloop
except ImportError:  # it is not made for Windows
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

_T = TypeVar("_T")

BAD_CONFIG = 2
"""Exit code for a configuration that cannot be used."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

HELP = """One URL for many MCP servers.

The gateway reads an ordinary mcp.json, connects to the servers in it, and offers all of them at one endpoint.
Every caller gets upstream sessions of its own, kept warm between calls.
"""


def main() -> None:
    """Run the command line; a configuration that cannot be used ends it with exit code 2."""
    try:
        cli()
    except ConfigError as error:
        print(f"The configuration cannot be used:\n{error}", file=sys.stderr)
        sys.exit(BAD_CONFIG)


_config_path = click.argument("path", metavar="[CONFIG]", required=False)


@click.group(help=HELP)
@click.version_option(__version__, prog_name="mcpgateway", message="%(prog)s %(version)s", help="Print the version and exit.")
def cli() -> None:
    return


@cli.command()
@_config_path
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Other than loopback it needs gateway.auth in the file.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=4444,
    show_default=True,
    help="Port to listen on; 0 for any that is free.",
)
def serve(path: str | None, host: str, port: int) -> None:
    """Serve all servers of CONFIG at one URL.

    Runs until interrupted; calls in flight may then finish. Without CONFIG the first of mcp.json, .mcp.json,
    .vscode/mcp.json and .cursor/mcp.json is taken.
    """
    settings = _load(path)
    config.check_exposure(settings, host)
    _set_up_logs(settings)
    gateway = app.Gateway(settings, local=not config.needs_auth(host))
    _run(serving.serve(gateway, host, port, lambda port: _announce(settings, base_url(settings, host, port))))


@cli.command()
@_config_path
@click.option("--server", default="", help="Offer this server alone, under its own names.")
def stdio(path: str | None, server: str) -> None:
    """Serve the servers of CONFIG to the client that starts this, on standard input and output.

    For clients that start MCP servers as processes. No port is opened; logs go to standard error.
    """
    settings = _load(path)
    _set_up_logs(settings)
    _run(serving.serve_stdio(app.Gateway(settings), server, sys.stdin.fileno(), _own_stdout()))


def _own_stdout() -> int:
    """Standard output for the protocol alone: whatever else is printed goes to standard error from now on."""
    sys.stdout.flush()
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


@cli.command()
@_config_path
def check(path: str | None) -> None:
    """Connect to every server of CONFIG and show how it does, each as soon as it was tried.

    For each: what it speaks, its state, what it offers, how long the handshake took, and the reason where there is trouble.
    Exit code 0 if all answer, 1 if any does not, 2 if the file cannot be used.
    """
    settings = _load(path)
    # Troubles are shown with their server; beside them, only what nobody expected.
    logs.setup(json=False, level="error")
    logs.hide(*settings.secrets)
    # Not at the top: a gateway that serves would keep what draws the table in memory, and never draw one.
    from mcpgateway import overview

    width = max((len(server.name) for server in settings.servers if server.enabled), default=0)
    if any(report.failed for report in _run(overview.watch(serving.check(settings), width))):
        sys.exit(1)


def _token_name(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """`name`, if the configuration would take it: a token nobody can use is not worth showing."""
    if fault := fault_in_token_name(name):
        raise click.BadParameter(fault)
    return name


@cli.group()
def token() -> None:
    """Make tokens for callers."""


@token.command("new")
@click.argument("name", callback=_token_name)
def token_new(name: str) -> None:
    """Make a new token for NAME, whose name stands in the configuration.

    The token is shown this once; the configuration keeps only its hash.
    """
    made, hashed = new_token()
    print(f"The token, for {name} alone. It is not shown again:\n\n    {made}\n")
    print('The line for the configuration, under "gateway": {"auth": {"tokens": { … }}}:\n')
    print(f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(hashed)}")


def _load(path: str | None) -> Config:
    return config.load(path or config.find(Path()))


def _set_up_logs(settings: Config) -> None:
    wanted = settings.gateway.logs
    logs.setup(json=None if wanted.format == "auto" else wanted.format == "json", level=wanted.level)
    logs.hide(*settings.secrets)


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            return runner.run(work)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)  # it was served in full; click would call it aborted


def base_url(settings: Config, host: str, port: int) -> str:
    """Where clients find the gateway: what the configuration says of it, else what it listens on."""
    if settings.gateway.public_url:
        return settings.gateway.public_url
    if host in ("0.0.0.0", "::", "[::]", ""):  # noqa: S104 - compared with, not bound to
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def announcement(settings: Config, base: str) -> str:
    """What `serve` says once it listens: every endpoint, and what to paste into a client."""
    width = max((len(server.slug) for server in settings.servers), default=0)
    lines = [f"Serving {settings.path} at {base}/mcp", ""]
    lines += [_line_of(server, base, width) for server in settings.servers]
    lines += ["", "Paste into your client's mcp.json:", "", snippet(base, with_token=settings.gateway.auth is not None), ""]
    return "\n".join(lines)


def _line_of(server: ServerConfig, base: str, width: int) -> str:
    where = f"{base}/servers/{server.slug}/mcp" if server.enabled else "(disabled)"
    return f"  {server.slug.ljust(width)}  {where}"


def snippet(base: str, *, with_token: bool) -> str:
    """The entry for this gateway in a client's mcp.json."""
    entry: dict[str, object] = {"type": "http", "url": f"{base}/mcp"}
    if with_token:
        entry["headers"] = {"Authorization": "Bearer YOUR-TOKEN"}
    return json.dumps({"mcpServers": {"gateway": entry}}, indent=2)


def _announce(settings: Config, base: str) -> None:
    print(announcement(settings, base), flush=True)
