"""The command line: `serve`, `stdio`, `check`, `token new`. What is printed to people is written here."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from mcpgateway import __version__, app, config, logs, serving
from mcpgateway.auth.tokens import new_token
from mcpgateway.config import Config, ServerConfig
from mcpgateway.config.auth import fault_in_token_name
from mcpgateway.errors import ConfigError
from mcpgateway.services.upstream import State, UpstreamReport

try:
    import uvloop
except ImportError:  # it is not made for Windows
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

_T = TypeVar("_T")

BAD_CONFIG = 2
"""Exit code for a configuration that cannot be used."""

HELP = """One URL for many MCP servers.

The gateway reads an ordinary mcp.json, connects to the servers in it, and offers all of them at one endpoint.
Every caller gets upstream sessions of its own, kept warm between calls.
"""

_COLUMNS = {
    "transport": (9, False),
    "revision": (10, False),
    "state": (13, False),
    "tools": (5, True),
    "resources": (9, True),
    "prompts": (7, True),
    "took": (9, True),
}
"""What `check` tells beside a server's name: room, and whether it stands at the right. A line is printed before the next is
known, so that room cannot be measured."""

_out = Console(highlight=False, soft_wrap=True)
cli = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_tokens = typer.Typer(help="Make tokens for callers.", no_args_is_help=True)
cli.add_typer(_tokens, name="token")


def main() -> None:
    """Run the command line; a configuration that cannot be used ends it with exit code 2."""
    try:
        cli()
    except ConfigError as error:
        print(f"The configuration cannot be used:\n{error}", file=sys.stderr)
        sys.exit(BAD_CONFIG)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mcpgateway {__version__}")
        raise typer.Exit


_VersionFlag = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
_ConfigPath = Annotated[str | None, typer.Argument(metavar="CONFIG", help="The configuration file; default: mcp.json here.")]
_Host = Annotated[str, typer.Option(help="Address to listen on. Other than loopback it needs gateway.auth in the file.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any that is free.")]


@cli.callback()
def _options(version: _VersionFlag = False) -> None:
    return


@cli.command()
def serve(path: _ConfigPath = None, host: _Host = "127.0.0.1", port: _Port = 4444) -> None:
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
def stdio(
    path: _ConfigPath = None,
    server: Annotated[str, typer.Option(help="Offer this server alone, under its own names.")] = "",
) -> None:
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
def check(path: _ConfigPath = None) -> None:
    """Connect to every server of CONFIG and show how it does, each as soon as it was tried.

    For each: what it speaks, its state, what it offers, how long the handshake took, and the reason where there is trouble.
    Exit code 0 if all answer, 1 if any does not, 2 if the file cannot be used.
    """
    settings = _load(path)
    # Troubles are shown with their server; beside them, only what nobody expected.
    logs.setup(json=False, level="error")
    logs.hide(*settings.secrets)
    if any(report.failed for report in _run(_watch(settings))):
        raise typer.Exit(1)


def _token_name(name: str) -> str:
    """`name`, if the configuration would take it: a token nobody can use is not worth showing."""
    if fault := fault_in_token_name(name):
        raise typer.BadParameter(fault)
    return name


_TokenName = Annotated[str, typer.Argument(metavar="NAME", callback=_token_name, help="Whose token it is; stands in the file.")]


@_tokens.command("new")
def token_new(name: _TokenName) -> None:
    """Make a new token for NAME. It is shown this once; the configuration keeps only its hash."""
    token, hashed = new_token()
    print(f"The token, for {name} alone. It is not shown again:\n\n    {token}\n")
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
        return runner.run(work)


async def _watch(settings: Config) -> list[UpstreamReport]:
    """The last reports. A server's line is printed once it was tried, and again if it fares otherwise while others are."""
    width = max((len(server.name) for server in settings.servers if server.enabled), default=0)
    reports: list[UpstreamReport] = []
    shown: dict[str, str] = {}
    _out.print(heading(width))
    with _out.status("connecting") as waiting:  # on a terminal only
        async for reports in serving.check(settings):
            for report in tried(reports):
                if shown.get(report.name) != report.state:
                    shown[report.name] = report.state
                    _out.print(row(report, width))
            waiting.update(f"waiting for {', '.join(escape(each.name) for each in reports if each not in tried(reports))}")
    return reports


def tried(reports: Iterable[UpstreamReport]) -> list[UpstreamReport]:
    """Those of servers whose first connection came about, or failed."""
    return [report for report in reports if report.state != State.CONNECTING]


def heading(width: int) -> Text:
    """Above what `check` shows. `width`: of the longest name."""
    return Text(_cells("server", width, *_COLUMNS), style="bold")


def row(report: UpstreamReport, width: int) -> Text:
    """What `check` shows of one server; where there is trouble, its reason below, which needs more room than a column has."""
    counts = (_number(count) for count in (report.tools, report.resources, report.prompts))
    took = "" if report.handshake_ms is None else f"{report.handshake_ms:.0f} ms"
    transport = "http" if report.transport == "streamablehttp" else report.transport
    text = Text(_cells(report.name, width, transport, report.revision, report.state, *counts, took))
    color = "red" if report.failed else "green" if report.state == "ready" else "yellow"
    start = text.plain.index(report.state, width)
    text.stylize(color, start, start + len(report.state))
    return text.append(f"\n  {report.reason}") if report.failed else text


def _cells(name: str, width: int, *cells: str) -> str:
    padded = [
        cell.rjust(room) if right else cell.ljust(room) for cell, (room, right) in zip(cells, _COLUMNS.values(), strict=True)
    ]
    return "  ".join((name.ljust(width), *padded)).rstrip()


def _number(count: int | None) -> str:
    return "" if count is None else str(count)


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
