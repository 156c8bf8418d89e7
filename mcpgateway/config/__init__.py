"""The configuration: one JSON file with comments becomes values that never change.

Everything wrong with the file is found and told together. What came out of the environment, header values and URL queries
never appear in an error text or a repr: they are where people keep secrets.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from mcpgateway.config.credentials import refuse_unknown_issuers
from mcpgateway.config.gateway import read_gateway
from mcpgateway.config.reader import Source, close_to
from mcpgateway.config.servers import read_servers
from mcpgateway.config.slug import slug_of
from mcpgateway.config.text import Located, locate
from mcpgateway.config.values import (
    AccessRule,
    AuthConfig,
    Config,
    GatewayConfig,
    JwtConfig,
    LimitsConfig,
    LogsConfig,
    PoolConfig,
    ServerConfig,
    TokenConfig,
)
from mcpgateway.errors import ConfigError

__all__ = [
    "AccessRule",
    "AuthConfig",
    "Config",
    "GatewayConfig",
    "JwtConfig",
    "LimitsConfig",
    "LogsConfig",
    "PoolConfig",
    "ServerConfig",
    "TokenConfig",
    "check_exposure",
    "find",
    "load",
    "needs_auth",
    "parse",
    "slug_of",
]

USUAL_PLACES = ("mcp.json", ".mcp.json", ".vscode/mcp.json", ".cursor/mcp.json")
"""Where people keep such a file, in the order in which we look."""

_TOP_LEVEL = ("mcpServers", "servers", "gateway")


def find(folder: Path) -> str:
    """The configuration file in `folder`. Raises ConfigError naming the places looked at."""
    for place in USUAL_PLACES:
        if (folder / place).is_file():
            return str(folder / place)
    raise ConfigError(f"no configuration file: looked for {', '.join(USUAL_PLACES)} in {folder}; name one on the command line")


def load(path: str, environ: Mapping[str, str] = os.environ, files: set[str] | None = None) -> Config:
    """The configuration in the file at `path`. Raises ConfigError, which lists everything wrong with it.

    `files` gets the names of what was read beside it, whether that was any use or not.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(text, path, environ, files)


def parse(text: str, path: str, environ: Mapping[str, str] = os.environ, files: set[str] | None = None) -> Config:
    """The configuration in `text`; `path` is what errors call it. Raises ConfigError. See `load`."""
    located = locate(text, path)
    source = Source(located, path, environ)
    for place, (first, last) in located.repeated.items():
        source.problem(place, f"given twice, first on line {first}; keep one", line=last)
    _check_top_level(located, source)
    servers = read_servers(located.data, source)
    gateway = read_gateway(located.data.get("gateway", {}), servers, source)
    refuse_unknown_issuers(gateway.auth, source)
    if files is not None:
        files |= source.files
    source.raise_problems()
    return Config(servers=servers, gateway=gateway, path=path, secrets=tuple(sorted(source.secrets)))


def _check_top_level(located: Located, source: Source) -> None:
    if "mcpServers" not in located.data and "servers" not in located.data:
        source.problem((), 'there is no "mcpServers" object in this file')
    # Programs that share this file with us keep keys of their own beside ours, so only a slip of the pen is refused.
    for key in located.data:
        if key not in _TOP_LEVEL and (near := close_to(key, _TOP_LEVEL)):
            source.problem((key,), f"unknown key; did you mean {near!r}?")


def needs_auth(host: str) -> bool:
    """Whether serving on `host` can be reached from other machines, so that callers must authenticate."""
    bare = host.strip("[]")
    if bare.lower() == "localhost":
        return False
    try:
        return not ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return True  # a host name: where it points may change after we looked


def check_exposure(config: Config, host: str) -> None:
    """Raise ConfigError where `host` would offer the upstreams to other machines without authentication."""
    if config.gateway.auth is None and needs_auth(host):
        raise ConfigError(
            f"{config.path}: gateway.auth is missing, and {host!r} can be reached from other machines; "
            "add tokens (mcpgateway token new NAME prints one) or serve on 127.0.0.1"
        )
