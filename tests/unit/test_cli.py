"""The command line, as far as it needs no server."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from mcpgateway import __version__, cli, config, overview
from mcpgateway.auth.tokens import StaticTokens
from mcpgateway.config import Config
from mcpgateway.errors import ConfigError
from mcpgateway.services.upstream import UpstreamReport


def settings(gateway: dict[str, object] | None = None) -> Config:
    servers = {
        "time": {"command": "mcp-server-time"},
        "my crm": {"url": "http://h/mcp"},
        "off": {"command": "x", "enabled": False},
    }
    return config.parse(json.dumps({"mcpServers": servers, "gateway": gateway or {}}), "mcp.json", {})


def said(*arguments: str) -> str:
    result = CliRunner().invoke(cli.cli, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_help_tells_what_each_command_is_for() -> None:
    text = said("--help")
    assert "serve" in text and "check" in text and "token" in text
    assert "--port" in said("serve", "--help") and "Exit code" in said("check", "--help")


def test_the_version_is_told() -> None:
    assert said("--version") == f"mcpgateway {__version__}\n"


def test_a_new_token_is_told_with_a_line_that_lets_it_in() -> None:
    lines = said("token", "new", "alice").splitlines()
    token = next(line.strip() for line in lines if line.strip().startswith("mcpgw_"))
    entry = next(line for line in lines if "sha256:" in line)
    document = f'{{"mcpServers": {{}}, "gateway": {{"auth": {{"tokens": {{ {entry} }} }} }} }}'
    auth = config.parse(document, "mcp.json", {}).gateway.auth
    assert auth is not None
    principal = StaticTokens(auth.tokens).principal_of(token.encode())
    assert principal is not None and principal.subject == "alice"


@pytest.mark.parametrize("name", ["", "  ", "\t", "a\nb", "a" * 201])
def test_a_token_for_a_name_that_the_configuration_would_refuse_is_not_made(name: str) -> None:
    result = CliRunner().invoke(cli.cli, ["token", "new", name])
    assert result.exit_code == 2 and "mcpgw_" not in result.output
    assert "NAME" in result.output and "1 to 200 printable characters" in result.output


def test_a_port_that_is_none_is_refused_with_a_hint_where_to_look() -> None:
    result = CliRunner().invoke(cli.cli, ["serve", "--port", "70000"])
    assert result.exit_code == cli.BAD_CONFIG and "70000" in result.output and "--help" in result.output


def test_each_server_is_announced_with_its_endpoint() -> None:
    text = cli.announcement(settings(), "http://127.0.0.1:4444")
    assert "http://127.0.0.1:4444/mcp" in text
    assert "  time    http://127.0.0.1:4444/servers/time/mcp" in text
    assert "  my_crm  http://127.0.0.1:4444/servers/my_crm/mcp" in text
    assert "  off     (disabled)" in text


def test_the_snippet_has_a_token_only_where_one_is_needed() -> None:
    entry = json.loads(cli.snippet("http://h", with_token=False))["mcpServers"]["gateway"]
    assert entry == {"type": "http", "url": "http://h/mcp"}
    entry = json.loads(cli.snippet("http://h", with_token=True))["mcpServers"]["gateway"]
    assert entry["headers"] == {"Authorization": "Bearer YOUR-TOKEN"}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:1"),
        ("::1", "http://[::1]:1"),
        ("[::1]", "http://[::1]:1"),
        ("0.0.0.0", "http://localhost:1"),
        ("::", "http://localhost:1"),
    ],
)
def test_the_base_url_is_one_that_clients_can_use(host: str, url: str) -> None:
    assert cli.base_url(settings(), host, 1) == url
    assert cli.base_url(settings({"public_url": "https://mcp.example/"}), host, 1) == "https://mcp.example"


def test_a_server_is_shown_with_what_is_known_and_the_rest_left_empty() -> None:
    good = UpstreamReport("time", "stdio", "2025-11-25", "ready", "", tools=2, resources=0, prompts=None, handshake_ms=12.4)
    shown = overview.row(good, 6).plain
    assert shown.split() == ["time", "stdio", "2025-11-25", "ready", "2", "0", "12", "ms"]
    assert len(shown) == len(overview.heading(6)) and shown.index("stdio") == overview.heading(6).plain.index("transport")


def test_trouble_is_told_below_its_server_as_it_is() -> None:
    bad = UpstreamReport("ready[bold]", "auto", "", "unreachable", "[nobody] listens")
    console = Console(file=io.StringIO(), width=20, soft_wrap=True)
    console.print(overview.row(bad, 11))
    assert isinstance(console.file, io.StringIO)
    first, second = console.file.getvalue().splitlines()
    assert first.split() == ["ready[bold]", "auto", "unreachable"] and second == "  [nobody] listens"


def test_a_server_that_is_still_being_tried_is_not_told_of() -> None:
    reports = [UpstreamReport(name, "auto", "", state, "") for name, state in (("a", "connecting"), ("b", "unreachable"))]
    assert [report.name for report in overview.tried(reports)] == ["b"]


def test_serving_others_without_authentication_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {}}', encoding="utf-8")
    result = CliRunner().invoke(cli.cli, ["serve", str(tmp_path / "mcp.json"), "--host", "0.0.0.0"])
    assert isinstance(result.exception, ConfigError)


def test_a_configuration_that_cannot_be_used_ends_with_code_2_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text('{"mcpServers": {"a": {}}}', encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "mcpgateway", "check", str(path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert f"{path}:1: mcpServers.a: needs a url" in ended.stderr
